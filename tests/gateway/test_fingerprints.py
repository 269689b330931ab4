"""The fingerprint of an upload: the same for the same form, however it comes and whatever its boundary."""

import hypothesis.strategies as st
from hypothesis import given

from gateway.parsing.fingerprints import Fingerprint


def form(boundary: bytes, *contents: bytes) -> bytes:
    parts = [b'--%b\r\ncontent-disposition: form-data; name="a"\r\n\r\n%b\r\n' % (boundary, each) for each in contents]
    return b"".join(parts) + b"--" + boundary + b"--\r\n"


def of(body: bytes, boundary: bytes = b"", step: int = 0) -> str:
    found = Fingerprint(boundary)
    for start in range(0, len(body), step or len(body) or 1):
        found.feed(body[start : start + (step or len(body))])
    assert found.size == len(body)
    return found.value()


@given(st.lists(st.binary(max_size=50), max_size=4), st.integers(1, 40))
def test_neither_the_pieces_nor_the_boundary_make_another_fingerprint(contents: list[bytes], step: int) -> None:
    one, other = b"x" * 20 + b"one", b"x" * 20 + b"two"
    found = of(form(one, *contents), one)
    assert of(form(one, *contents), one, step) == found
    assert of(form(other, *contents), other, step) == found


@given(st.lists(st.binary(max_size=9), max_size=3), st.lists(st.binary(max_size=9), max_size=3), st.booleans())
def test_other_contents_have_another_fingerprint(first: list[bytes], second: list[bytes], is_form: bool) -> None:
    here, there = form(b"bound", *first), form(b"bound", *second)
    boundary = b"bound" if is_form else b""
    assert (of(here, boundary) == of(there, boundary)) == (here == there)


def test_what_stands_on_both_sides_of_a_boundary_does_not_flow_together() -> None:
    assert of(b"ab--Bcd", b"B") != of(b"a--Bbcd", b"B") != of(b"abcd", b"B")


def test_it_can_be_read_in_the_middle_and_goes_on() -> None:
    found = Fingerprint(b"B")
    found.feed(b"ab-")
    assert found.value() == of(b"ab-", b"B")
    found.feed(b"-Bc")
    assert found.value() == of(b"ab--Bc", b"B")
