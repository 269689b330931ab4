"""What an upload holds, in a few bytes, taken as it passes (pure)."""

import hashlib


class Fingerprint:
    """Fed with a body in pieces of any size; of it no more is held than a boundary is long.

    A form's boundary counts for nothing: clients make a new one each time that they send the same form.
    """

    def __init__(self, boundary: bytes = b"") -> None:
        self.size = 0  # bytes that it has been fed with
        self._mark = b"--" + boundary if boundary else b""
        self._tail = b""  # what may be the beginning of a boundary
        self._parts = hashlib.blake2b(digest_size=20)
        self._part = hashlib.blake2b(digest_size=20)

    def feed(self, data: bytes) -> None:
        self.size += len(data)
        if not self._mark:
            self._part.update(data)
            return
        *parts, rest = (self._tail + data).split(self._mark)
        for part in parts:
            self._part.update(part)
            self._parts.update(self._part.digest())
            self._part = hashlib.blake2b(digest_size=20)
        cut = max(0, len(rest) - len(self._mark) + 1)
        self._part.update(rest[:cut])
        self._tail = rest[cut:]

    def value(self) -> str:
        """40 hex digits, of all that it has been fed with."""
        parts, part = self._parts.copy(), self._part.copy()
        part.update(self._tail)
        parts.update(part.digest())
        return parts.hexdigest()
