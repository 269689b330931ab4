import re
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from providers import keys
from providers.keys import Malformed, Parsed

PEPPER = bytes(range(32))
PRINTABLE = string.ascii_letters + string.digits + string.punctuation


@pytest.mark.parametrize("kind", keys.KINDS)
def test_a_minted_key_has_the_published_form_and_names_its_id(kind: keys.Kind) -> None:
    minted = keys.mint(kind)
    assert re.fullmatch(rf"{kind}-gw-[0-9A-Za-z]{{10}}-[0-9A-Za-z]{{49}}", minted.token)
    assert keys.parse(minted.token) == Parsed(kind, minted.id)
    assert minted.token[6:16] == minted.id


def test_a_known_key_parses_for_ever() -> None:
    body = "sk-gw-0123456789-" + "0" * 43
    assert keys.checksum(body) == "3macLs"
    assert keys.parse(body + "3macLs") == Parsed("sk", "0123456789")


def test_two_minted_keys_differ_in_id_and_secret() -> None:
    first, second = keys.mint(), keys.mint()
    assert first.id != second.id
    assert first.token[17:60] != second.token[17:60]


def test_a_minted_key_does_not_show_its_token_by_chance() -> None:
    minted = keys.mint()
    assert minted.token not in f"{minted!r} {minted}"


@given(st.integers(0, keys.TOKEN_CHARS - 1), st.sampled_from(PRINTABLE))
def test_s13_a_key_with_one_other_character_is_never_the_same_key(place: int, char: str) -> None:
    token = "sk-gw-0123456789-" + "0" * 43 + "3macLs"
    other = token[:place] + char + token[place + 1 :]
    if other == token:
        return
    assert not isinstance(keys.parse(other), Parsed)
    assert not keys.matches(PEPPER, other, keys.digest(PEPPER, token))


@pytest.mark.parametrize(
    "token",
    [
        "sk-gw-",
        "sk-gw-0123456789-" + "0" * 43,
        "sk-gw-0123456789-" + "0" * 43 + "3macLt",
        "sk-gw-0123456789_" + "0" * 43 + "3macLs",
        "pk-gw-0123456789-" + "0" * 43 + "3macLs",
        "sk-gw-0123456789-" + "0" * 43 + "3macLs ",
        "sk-gw-01234é6789-" + "0" * 43 + "3macLs",
        "",
        " sk-live-1",
        "sk-live-1 ",
        "sk-live\n1",
        "clé",
        "\ud800",
        "x" * 2049,
    ],
)
def test_s11_what_cannot_be_a_key_is_malformed(token: str) -> None:
    assert isinstance(keys.parse(token), Malformed)


@pytest.mark.parametrize("token", ["My API Key", "sk-live-51H", "x", "sk-gx-1", "' OR 1=1 --", "x" * 2048])
def test_any_other_text_is_a_key_from_elsewhere(token: str) -> None:
    assert keys.parse(token) is None


@given(st.text())
def test_s59_parsing_never_raises(token: str) -> None:
    assert not isinstance(keys.parse(token), Parsed)
    assert not isinstance(keys.parse("sk-gw-" + token), Parsed)
    assert len(keys.digest(PEPPER, token)) == 32


def test_the_digest_is_hmac_sha256_of_the_whole_token() -> None:
    # RFC 4231 section 4.2, https://www.rfc-editor.org/rfc/rfc4231
    expected = "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"
    assert keys.digest(b"\x0b" * 20, "Hi There").hex() == expected
    assert keys.matches(b"\x0b" * 20, "Hi There", bytes.fromhex(expected))
    assert not keys.matches(b"\x0c" * 20, "Hi There", bytes.fromhex(expected))


def test_an_empty_pepper_is_an_error() -> None:
    with pytest.raises(ValueError, match="a pepper must not be empty"):
        keys.digest(b"", "sk-live-1")
