"""A multipart body is read as it passes, however it is cut; what two readers could take for two things is refused."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import BadRequest, DuplicateField
from gateway.parsing.multipart import MAX_HEAD, MAX_PARTS, MAX_VALUE, Scanner, boundary_of

BOUNDARY = b"----formdata-undici-0123456789"
WANTED = frozenset({"model", "stream", "response_format"})
FILE = b'Content-Disposition: form-data; name="file"; filename="a.wav"\r\nContent-Type: audio/wav'


def field(name: str) -> bytes:
    return b'Content-Disposition: form-data; name="%b"' % name.encode()


def form(*parts: tuple[bytes, bytes]) -> bytes:
    """Header lines and content of each part."""
    whole = b"".join(b"--%b\r\n%b\r\n\r\n%b\r\n" % (BOUNDARY, head, content) for head, content in parts)
    return whole + b"--" + BOUNDARY + b"--\r\n"


def scan(body: bytes, *cuts: int) -> Scanner:
    scanner = Scanner(BOUNDARY, WANTED)
    for start, end in pairwise([0, *sorted(cuts), len(body)]):
        scanner.feed(body[start:end])
    scanner.finish()
    return scanner


AUDIO = bytes(range(256)) * 8
ORDINARY = form(
    (FILE, AUDIO + b"\r\n--" + BOUNDARY[:-1] + b"\r\n"),
    (field("model"), b"whisper-1"),
    (field("timestamp_granularities[]"), b"word"),
    (field("timestamp_granularities[]"), b"segment"),
    (field("response_format"), b""),
)


def check(scanner: Scanner, body: bytes) -> None:
    assert scanner.values == {"model": b"whisper-1", "response_format": b""}
    assert {name: body[start:end] for name, (start, end) in scanner.spans.items()} == scanner.values
    assert scanner.text_bytes == len(b"whisper-1wordsegment")
    [file] = scanner.files
    assert file.file_name == "a.wav"
    assert body[file.start : file.end].startswith(AUDIO)
    assert scanner.done


def test_fields_behind_a_file_are_found_with_their_places() -> None:
    check(scan(ORDINARY), ORDINARY)


def test_the_body_may_be_cut_in_two_anywhere_and_come_a_byte_at_a_time() -> None:
    for cut in range(len(ORDINARY) + 1):
        check(scan(ORDINARY, cut), ORDINARY)
    check(scan(ORDINARY, *range(1, len(ORDINARY))), ORDINARY)


def test_a_field_is_known_as_soon_as_the_boundary_behind_it_is() -> None:
    body = form((field("model"), b"whisper-1"), (FILE, AUDIO))
    start = body.index(b"\r\n--" + BOUNDARY, 10) + 4 + len(BOUNDARY)
    scanner = Scanner(BOUNDARY, WANTED)
    scanner.feed(body[: start + 1])
    assert scanner.values == {}
    scanner.feed(body[start + 1 : start + 2])
    assert scanner.values == {"model": b"whisper-1"}
    assert not scanner.done


# Pieces that look like the structure itself, so that hypothesis is often near a border.
SHARD = st.sampled_from([b"\r", b"\n", b"\r\n", b"--", b"-", BOUNDARY[:9], BOUNDARY[1:], b"x", b"\0", b'"'])
CONTENT = (
    st.lists(SHARD | st.binary(max_size=20), max_size=30).map(b"".join).filter(lambda b: b"--" + BOUNDARY not in b)
)
NAME = st.sampled_from(["model", "stream", "file", "image[]", "prompt", "Grüße"])


@given(st.lists(st.tuples(NAME, CONTENT, st.booleans()), min_size=1, max_size=6), st.data())
@settings(max_examples=300, deadline=None)
def test_any_form_cut_anywhere_gives_the_same(parts: list[tuple[str, bytes, bool]], data: st.DataObject) -> None:
    parts = [(name, content, is_file and name not in WANTED) for name, content, is_file in parts]
    body = form(*((field(name) + (b'; filename="f"' if is_file else b""), text) for name, text, is_file in parts))
    cuts = data.draw(st.lists(st.integers(0, len(body)), max_size=8))
    names = [name for name, _, _ in parts if name in WANTED]
    if len(names) > len(set(names)):
        with pytest.raises(DuplicateField):
            scan(body, *cuts)
        return
    scanner = scan(body, *cuts)
    assert scanner.values == {name: content for name, content, _ in parts if name in WANTED}
    assert all(body[slice(*scanner.spans[name])] == value for name, value in scanner.values.items())
    assert scanner.text_bytes == sum(len(content) for _, content, is_file in parts if not is_file)


@given(st.lists(SHARD | st.binary(max_size=9) | st.just(b"--" + BOUNDARY) | st.just(field("model")), max_size=40))
@settings(max_examples=300, deadline=None)
def test_any_bytes_are_a_form_or_refused_and_the_cuts_do_not_matter(shards: list[bytes]) -> None:
    body = b"".join(shards)

    def outcome(*cuts: int) -> object:
        try:
            scanner = scan(body, *cuts)
        except BadRequest as exc:
            return type(exc), exc.param
        return scanner.values, scanner.spans

    assert outcome() == outcome(*range(1, len(body)))


ONE = field("model")
REFUSED = {
    "a line feed alone": form((ONE, b"cheap")).replace(b"\r\n", b"\n"),
    "a boundary behind a bare line feed": form((FILE, b"a\n--" + BOUNDARY + b"\r\n" + ONE + b"\r\n\r\nx"), (ONE, b"y")),
    "a boundary that goes on": form((FILE, b"a\r\n--" + BOUNDARY + b"x\r\n"), (ONE, b"y")),
    "no end": form((ONE, b"cheap"))[:-6],
    "half of the end": form((ONE, b"cheap"))[:-3],
    "something behind the end": form((ONE, b"cheap")) + b"--" + BOUNDARY,
    "something before the beginning": b"hello\r\n" + form((ONE, b"cheap")),
    "another boundary": b"--other\r\n",
    "nothing": b"",
    "a folded line": form((b"Content-Disposition: form-data;\r\n name=model", b"cheap")),
    "no disposition": form((b"Content-Type: text/plain", b"cheap")),
    "two dispositions": form((field("x") + b"\r\n" + ONE, b"cheap")),
    "an empty head": form((b"", b"cheap")),
    "no blank line": b"--%b\r\n%b\r\n--%b--\r\n" % (BOUNDARY, ONE, BOUNDARY),
    "no name": form((b'Content-Disposition: form-data; filename="model"', b"cheap")),
    "two names": form((b'Content-Disposition: form-data; name="x"; name="model"', b"cheap")),
    "a name in the other spelling": form((b"Content-Disposition: form-data; name*=utf-8''model", b"cheap")),
    "a name behind an escape": form((b'Content-Disposition: form-data; name="mo\\del"', b"cheap")),
    "a name within a file name": form(
        (b'Content-Disposition: form-data; filename="a\\"; name="model"; x="\\"; name="y"', b"cheap")
    ),
    "a name that is not UTF-8": form((b'Content-Disposition: form-data; name="\xff"', b"cheap")),
    "an attachment": form((b'Content-Disposition: attachment; name="model"', b"cheap")),
    "a transfer encoding": form((ONE + b"\r\nContent-Transfer-Encoding: base64", b"Y2hlYXA=")),
    "another charset": form((ONE + b"\r\nContent-Type: text/plain; charset=utf-16", b"cheap")),
    "a NUL in a head": form((ONE + b"\r\nX: \0", b"cheap")),
    "a model that is a file": form((ONE + b'; filename="m"', b"cheap")),
    "too large a head": form((ONE + b"\r\nX: " + b"x" * MAX_HEAD, b"cheap")),
    "too long a value": form((ONE, b"x" * (MAX_VALUE + 1))),
    "too many parts": form(*[(field("x"), b"")] * (MAX_PARTS + 1)),
}


@pytest.mark.parametrize("body", REFUSED.values(), ids=REFUSED)
def test_what_could_be_read_in_two_ways_is_refused(body: bytes) -> None:
    with pytest.raises(BadRequest):
        scan(body)
    if len(body) < 2000:
        with pytest.raises(BadRequest):
            scan(body, *range(1, len(body)))


def test_a_model_given_twice_is_refused_by_name() -> None:
    with pytest.raises(DuplicateField) as caught:
        scan(form((ONE, b"cheap"), (FILE, AUDIO), (ONE, b"dear")))
    assert (caught.value.param, caught.value.code) == ("model", "duplicate_parameter")


ACCEPTED = {
    "an unquoted name": b"Content-Disposition: form-data; name=model",
    "other case and spaces": b'content-disposition:form-data ;\tname="model"',
    "more header lines": b'X: y\r\nContent-Disposition: form-data; name="model"\r\nContent-Transfer-Encoding: 8bit',
    "a charset": b'Content-Disposition: form-data; name="model"\r\nContent-Type: text/plain;charset=UTF-8',
}


@pytest.mark.parametrize("head", ACCEPTED.values(), ids=ACCEPTED)
def test_every_honest_spelling_of_a_name_is_read(head: bytes) -> None:
    assert scan(form((head, b"cheap"))).values == {"model": b"cheap"}


def test_a_file_name_may_hold_backslashes() -> None:
    scan(form((b'Content-Disposition: form-data; name="file"; filename="C:\\\\temp\\\\a.wav"', AUDIO)))


@pytest.mark.parametrize(
    ("content_type", "boundary"),
    [
        ("multipart/form-data; boundary=abc", b"abc"),
        ('multipart/form-data; boundary="a b"', b"a b"),
        ("Multipart/Form-Data;charset=utf-8;Boundary=--x", b"--x"),
    ],
)
def test_the_boundary_is_read_from_the_content_type(content_type: str, boundary: bytes) -> None:
    assert boundary_of(content_type) == boundary


@pytest.mark.parametrize(
    "content_type",
    [
        "multipart/form-data",
        "multipart/form-data; boundary=",
        'multipart/form-data; boundary="a\r\nb"',
        "multipart/form-data; boundary=a; boundary=b",
        "multipart/form-data; boundary*=utf-8''a; boundary=b",
        f"multipart/form-data; boundary={'a' * 71}",
        "multipart/form-data; boundary=grüße",
    ],
)
def test_a_content_type_without_one_usable_boundary_is_refused(content_type: str) -> None:
    with pytest.raises(BadRequest):
        boundary_of(content_type)
