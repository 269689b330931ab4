"""What a form held when it arrived, taken apart with nothing of the gateway's own."""

import hashlib
import re
from dataclasses import dataclass

from tests.scripted import Received


@dataclass(frozen=True)
class Part:
    """One part: its header lines as they came, its content."""

    head: bytes
    content: bytes

    @property
    def name(self) -> str:
        found = re.search(rb' name="([^"]*)"', self.head)
        assert found is not None
        return found[1].decode()

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()


def parts(request: Received) -> list[Part]:
    """The parts of a multipart request, in their order; the boundary is each client's own and new each time."""
    boundary = (request.header("content-type") or "").partition("boundary=")[2].encode()
    before, *pieces, end = (b"\r\n" + request.body).split(b"\r\n--" + boundary)
    assert (before, end.strip(b"\r\n")) == (b"", b"--")
    found = []
    for piece in pieces:
        head, _, content = piece.removeprefix(b"\r\n").partition(b"\r\n\r\n")
        found.append(Part(head, content))
    return found
