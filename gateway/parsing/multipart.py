"""multipart/form-data read as it passes by: the values of a few small fields, and where in the body they stand.

https://www.rfc-editor.org/rfc/rfc7578. Nothing is rebuilt: who forwards the body forwards the client's own bytes. What
two readers could take for two different things (a line feed alone, folded header lines, a name written twice) is
refused, so that the model that was authorised is the one that the provider finds.
"""

import re
from typing import Final

import msgspec

from gateway.errors import BadRequest, DuplicateField

MULTIPART = "multipart/form-data"
MAX_HEAD = 8 * 1024  # bytes of one part's header lines
MAX_VALUE = 4 * 1024  # bytes of a field that is read
MAX_PARTS = 1024
MAX_BOUNDARY = 70  # https://www.rfc-editor.org/rfc/rfc2046#section-5.1.1
LINE: Final = b"\r\n"
_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_FIELD = re.compile(rb"(" + _TOKEN + rb"):[ \t]*([^\x00-\x08\x0a-\x1f\x7f]*)")
_BOUNDARY_CHARS = re.compile(r"[0-9A-Za-z'()+_,\-./:=? ]{0,69}[0-9A-Za-z'()+_,\-./:=?]")
# A quoted text with backslashes as escapes, as HTTP has it, and as mere characters, as browsers have it.
_PARAMETER = re.compile(rb"[ \t]*;[ \t]*(" + _TOKEN + rb')=(?:"((?:[^"\\]|\\.)*)"|(' + _TOKEN + rb"))")
_LITERAL_PARAMETER = re.compile(rb"[ \t]*;[ \t]*(" + _TOKEN + rb')=(?:"([^"]*)"|(' + _TOKEN + rb"))")
_AS_IT_IS = frozenset({b"7bit", b"8bit", b"binary"})


def text_part(boundary: bytes, name: str, value: str) -> bytes:
    """One more field, to stand before the first boundary of a body."""
    return b'--%b\r\nContent-Disposition: form-data; name="%b"\r\n\r\n%b\r\n' % (
        boundary,
        name.encode(),
        value.encode(),
    )


def boundary_of(content_type: str) -> bytes:
    """The boundary that a multipart/form-data content type declares. Raises BadRequest."""
    found: list[tuple[str, str]] = re.findall(r';\s*boundary=(?:"([^"\\]*)"|([^\s;"]*))', content_type, re.IGNORECASE)
    if len(found) != 1 or content_type.lower().count("boundary") != 1:
        raise BadRequest("The content type `multipart/form-data` needs one `boundary`.")
    boundary = found[0][0] or found[0][1]
    if not _BOUNDARY_CHARS.fullmatch(boundary):
        raise BadRequest("The `boundary` of the content type is not valid.")
    return boundary.encode("ascii")


class FilePart(msgspec.Struct, frozen=True):
    """A file within a form: its own name, and where its content stands."""

    file_name: str
    start: int
    end: int


class Scanner:
    """Fed with the body in pieces of any size. `values` and `spans` hold each wanted field once it is complete.

    A span is the first byte of the value and the one behind its last, counted from the body's beginning.
    """

    def __init__(self, boundary: bytes, wanted: frozenset[str]) -> None:
        self.values: dict[str, bytes] = {}
        self.spans: dict[str, tuple[int, int]] = {}
        self.files: list[FilePart] = []
        self.start = 0  # where the first boundary stands
        self.text_bytes = 0  # of all parts that are no files
        self.done = False  # the last boundary has passed
        self._wanted = wanted
        self._mark = b"--" + boundary
        self._kept = len(self._mark) + 1  # what may be a line end and a boundary not yet complete
        self._tail = b""
        self._base = 0  # where the tail begins in the body
        self._read = self._opening
        self._parts = 0
        self._name = ""  # of the part under way, where it is wanted
        self._file_name: str | None = None  # of the part under way, where it is a file
        self._start = 0
        self._value = bytearray()

    def feed(self, data: bytes) -> None:
        """Raises BadRequest, DuplicateField for a wanted field that comes twice."""
        data = self._tail + data
        at, more = 0, True
        while more:
            at, more = self._read(data, at)
        self._tail = data[at:]
        self._base += at

    def finish(self) -> None:
        """The body is over. Raises BadRequest where it ended before its last boundary."""
        if not self.done:
            raise _malformed("it ends before its last boundary")

    # --- each reads what it can from `at` on, and says where it came to and whether another may go on ----------------

    def _opening(self, data: bytes, at: int) -> tuple[int, bool]:
        if data.startswith(LINE):
            at = 2  # some clients begin with the line end that belongs to a boundary
        if len(data) < at + len(self._mark) + 2:
            if not data.startswith(self._mark[: len(data) - at], at) and data[:2] != LINE[: len(data)]:
                raise _malformed("it does not begin with its boundary")
            return 0, False
        if not data.startswith(self._mark, at):
            raise _malformed("it does not begin with its boundary")
        self.start = at
        return self._border(data, at), True

    def _border(self, data: bytes, at: int) -> int:
        """A boundary and what follows it, all of which is there: on to the next part, or to the end."""
        after = at + len(self._mark) + 2
        follows = data[after - 2 : after]
        if follows == LINE:
            self._parts += 1
            if self._parts > MAX_PARTS:
                raise _malformed(f"it has more than {MAX_PARTS} parts")
            self._read = self._head
        elif follows == b"--":
            self.done = True
            self._read = self._closing
        else:
            raise _malformed("its boundary stands within a part")
        return after

    def _head(self, data: bytes, at: int) -> tuple[int, bool]:
        end = data.find(LINE + LINE, at, at + MAX_HEAD)
        if end < 0:
            if len(data) - at >= MAX_HEAD:
                raise _malformed(f"a part has more than {MAX_HEAD} bytes of header lines")
            return at, False
        head = data[at:end]
        if self._mark in head:
            raise _malformed("its boundary stands within a part")
        name, self._file_name = _described(head)
        self._name = name if name in self._wanted else ""
        if self._name:
            if self._file_name is not None:
                raise BadRequest(f"`{name}` must be a text field, not a file.", param=name, code="invalid_type")
            if name in self.values:
                raise DuplicateField(f"`{name}` is given twice.", param=name)
        self._start = self._base + end + 4
        self._value.clear()
        self._read = self._body
        return end + 4, True

    def _body(self, data: bytes, at: int) -> tuple[int, bool]:
        found = data.find(self._mark, at)
        if found < 0 or found + len(self._mark) + 2 > len(data):
            cut = max(at, (found - 2) if found >= 0 else len(data) - self._kept)
            self._take(data, at, cut)
            return cut, False
        end = found - 2
        if end < at or data[end:found] != LINE:
            raise _malformed("its boundary stands within a part")
        self._take(data, at, end)
        if self._file_name is not None:
            self.files.append(FilePart(self._file_name, self._start, self._base + end))
        elif self._name:
            self.values[self._name] = bytes(self._value)
            self.spans[self._name] = self._start, self._base + end
        return self._border(data, found), True

    def _take(self, data: bytes, at: int, end: int) -> None:
        if self._file_name is None:
            self.text_bytes += end - at
        if self._name:
            self._value += data[at:end]
            if len(self._value) > MAX_VALUE:
                raise BadRequest(f"`{self._name}` is longer than {MAX_VALUE} bytes.", param=self._name)

    def _closing(self, data: bytes, at: int) -> tuple[int, bool]:
        if data[at:].strip(LINE):
            raise _malformed("something follows its last boundary")
        return len(data), False


def _described(head: bytes) -> tuple[str, str | None]:
    """The name of the part with these header lines; if it is a file, its own name too. Raises BadRequest."""
    found: list[bytes] = []
    for line in head.split(LINE):
        match = _FIELD.fullmatch(line)
        if match is None:
            raise _malformed("a part has a header line that is none")
        field, value = match[1].lower(), match[2].strip(b" \t")
        if field == b"content-disposition":
            found.append(value)
        elif field == b"content-transfer-encoding" and value.lower() not in _AS_IT_IS:
            raise _malformed("a part has a Content-Transfer-Encoding")
        elif field == b"content-type" and b"charset" in value.lower() and b"utf-8" not in value.lower():
            raise _malformed("a part is not UTF-8")
    if len(found) != 1:
        raise _malformed("a part has not exactly one Content-Disposition")
    parameters = _parameters(found[0], _PARAMETER)
    names = [value for name, value in parameters if name == b"name"]
    if b"\\" in found[0]:
        literal = [value for name, value in _parameters(found[0], _LITERAL_PARAMETER) if name == b"name"]
        if literal != names or b"\\" in b"".join(names):
            raise _malformed("a part's name cannot be read for its backslashes")
    if len(names) != 1 or any(name == b"name*" for name, _ in parameters):
        raise _malformed("a part has not exactly one name")
    files = [value for name, value in parameters if name in (b"filename", b"filename*")]
    try:
        return names[0].decode(), files[0].decode("utf-8", "replace") if files else None
    except UnicodeDecodeError:
        raise _malformed("a part's name is not UTF-8") from None


def _parameters(value: bytes, pattern: re.Pattern[bytes]) -> list[tuple[bytes, bytes]]:
    kind = b"form-data"
    if value[: len(kind)].lower() != kind:
        raise _malformed("a part is no form-data")
    at = len(kind)
    parameters: list[tuple[bytes, bytes]] = []
    while at < len(value):
        match = pattern.match(value, at)
        if match is None:
            raise _malformed("a part has a Content-Disposition that cannot be read")
        parameters.append((match[1].lower(), match[3] if match[2] is None else match[2]))
        at = match.end()
    return parameters


def _malformed(why: str) -> BadRequest:
    return BadRequest(f"The multipart body cannot be read: {why}.", code="invalid_multipart")
