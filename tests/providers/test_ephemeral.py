"""Ephemeral tokens: what their form promises, and that nobody but the gateway can make or change one."""

import base64
import json
import random
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from providers import ephemeral, keys, minting
from providers.ephemeral import Claims
from providers.minting import MintRefused, Wish
from providers.targets import KeyCard, Limits

PEPPERS = {"p2": b"2" * 31 + b"x", "p1": b"1" * 31 + b"y"}
NOW = 1_800_000_000.5
MINTER = KeyCard("abcdefghij", "server", "p2", b"", aliases=("fast", "mistral/*"), origins=("https://app.example.com",))


def mint(minter: KeyCard = MINTER, **wish: Any) -> minting.Minted:
    return minting.mint(minter, msgspec.convert({"end_user": "anna", **wish}, Wish), PEPPERS, NOW)


def opened(token: str) -> Claims | None:
    """As the desk does it."""
    parts = ephemeral.parse(token)
    pepper = PEPPERS.get(parts.pepper_id) if parts else None
    return ephemeral.read(parts) if parts and pepper and ephemeral.is_genuine(parts, pepper) else None


def test_a_token_says_what_was_asked_for() -> None:
    made = mint(expires_in=90, aliases=["mistral/small*"], origin="https://app.example.com", max_tokens=7, rpm=3)
    assert made.token.startswith("ek-gw-p2.")
    assert opened(made.token) == made.claims
    assert (made.claims.issued_at, made.claims.expires_at) == (1_800_000_000, 1_800_000_090)
    assert (made.claims.key, made.claims.end_user, made.claims.rpm) == ("abcdefghij", "anna", 3)


def test_a_token_under_the_pepper_before_is_still_good() -> None:
    claims = mint().claims
    assert opened(ephemeral.seal("p1", PEPPERS["p1"], claims)) == claims


def forged(claims: dict[str, Any] | bytes, key: bytes, head: str = "ek-gw-p2") -> str:
    text = claims if isinstance(claims, bytes) else json.dumps(claims).encode()
    signed = f"{head}.{base64.urlsafe_b64encode(text).rstrip(b'=').decode()}"
    body = f"{signed}.{ephemeral.mac(key, signed.encode())}"
    return body + keys.checksum(body)


def test_widened_claims_open_nothing() -> None:
    """Every claim changed, the MAC of the true token kept, the checksum made anew."""
    made = mint(aliases=["fast"], rpm=1, max_tokens=5, expires_in=1)
    parts = ephemeral.parse(made.token)
    assert parts is not None
    claims = msgspec.to_builtins(made.claims)
    wider: dict[str, Any] = {
        "aliases": ["*"],
        "rpm": 0,
        "max_tokens": None,
        "expires_at": 2_000_000_000,
        "end_user": "bob",
        "key": "zzzzzzzzzz",
        "endpoints": None,
        "origin": "https://evil.example",
    }
    for name, value in wider.items():
        text = base64.urlsafe_b64encode(json.dumps({**claims, name: value}).encode()).rstrip(b"=").decode()
        body = f"ek-gw-p2.{text}.{parts.mac}"
        assert opened(body + keys.checksum(body)) is None, name


def test_a_thousand_changed_bytes_open_nothing() -> None:
    token, chance = mint().token, random.Random(7)
    alphabet = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz-_."
    for _ in range(1000):
        place = chance.randrange(len(token) - 6)
        other = chance.choice(alphabet.replace(token[place], ""))
        body = token[:place] + other + token[place + 1 : -6]
        # The last character of a MAC has two bits that say nothing: base64 that is spelled otherwise is another text.
        assert opened(body + keys.checksum(body)) is None, (place, other)


@pytest.mark.parametrize(
    "key", [b"", b"p2", PEPPERS["p1"], bytes(32), b"0" * 32], ids=["none", "its id", "another pepper", "zeros", "guess"]
)
def test_another_keys_signature_opens_nothing(key: bytes) -> None:
    claims = msgspec.to_builtins(mint().claims)
    assert opened(forged(claims, key)) is None


def test_a_signature_by_the_pepper_itself_opens_nothing() -> None:
    """The pepper and the key of the MAC are different values: an answer about one is none about the other."""
    import hmac

    made = mint()
    signed = made.token.rpartition(".")[0]
    bare = base64.urlsafe_b64encode(hmac.digest(PEPPERS["p2"], signed.encode(), "sha256")).rstrip(b"=").decode()
    body = f"{signed}.{bare}"
    assert opened(body + keys.checksum(body)) is None


@pytest.mark.parametrize(
    "extra",
    [{"alg": "none"}, {"alg": "HS256", "typ": "JWT"}, {"kid": "p1"}, {"admin": True}, {"expires_at": "never"}],
)
def test_claims_that_are_not_ours_open_nothing_even_if_signed(extra: dict[str, Any]) -> None:
    claims = msgspec.to_builtins(mint().claims)
    assert opened(forged({**claims, **extra}, PEPPERS["p2"])) is None
    assert opened(forged(claims, PEPPERS["p2"])) is not None


@pytest.mark.parametrize(
    "token",
    [
        "ek-gw-",
        "ek-gw-p2..",
        "ek-gw-p2.e30." + "A" * 49,
        "ek-gw-p9" + mint().token[8:],
        "ek-gw-p2." + base64.urlsafe_b64encode(b'{"alg":"none"}').decode().rstrip("=") + "." + "0" * 6,
        "eyJhbGciOiJub25lIn0.eyJ1c2VyIjoiYSJ9.",
        mint().token[:-1],
        mint().token + "\n",
        mint().token.replace("ek-", "sk-"),
        "ek-gw-p2." + "A" * 9000 + "." + "A" * 49,
    ],
)
def test_junk_opens_nothing(token: str) -> None:
    assert opened(token) is None


@pytest.mark.parametrize(
    ("minter", "wish", "field"),
    [
        (MINTER, {"aliases": ["other"]}, "aliases"),
        (MINTER, {"aliases": ["*"]}, "aliases"),
        (MINTER, {"aliases": ["mist*"]}, "aliases"),
        (MINTER, {"origin": "https://evil.example"}, "origin"),
        (MINTER, {"origin": "https://*.example.com"}, "origin"),
        (MINTER, {"origin": "app"}, "origin"),
        (MINTER, {"endpoints": ["files"]}, "endpoints"),
        (replace(MINTER, endpoints=("embeddings",)), {"endpoints": ["chat.completions"]}, "endpoints"),
        (replace(MINTER, max_tokens=10), {"max_tokens": 11}, "max_tokens"),
        (replace(MINTER, limits=Limits(rpm=10)), {"rpm": 11}, "rpm"),
        (replace(MINTER, end_user_limits=Limits(tpm=10)), {"tpm": 11}, "tpm"),
        (replace(MINTER, limits=Limits(concurrency=1)), {"concurrency": 2}, "concurrency"),
        (MINTER, {"end_user": "a\nb"}, "end_user"),
        (replace(MINTER, kind="publishable"), {}, ""),
        (replace(MINTER, kind="ephemeral"), {}, ""),
    ],
)
def test_a_key_makes_no_token_that_is_wider_than_itself(minter: KeyCard, wish: dict[str, Any], field: str) -> None:
    with pytest.raises(MintRefused) as refused:
        mint(minter, **wish)
    assert refused.value.field == field


def test_without_peppers_that_all_share_there_are_no_tokens() -> None:
    with pytest.raises(MintRefused, match="GATEWAY_KEY_PEPPERS"):
        minting.mint(MINTER, Wish("anna"), {}, NOW)


def test_a_token_ends_with_its_minter_and_gives_what_both_allow() -> None:
    ending = replace(MINTER, expires_at=NOW + 60, cidrs=("192.0.2.0/24",), repepper=True)
    made = mint(ending, aliases=["mistral/small*"], max_tokens=50, rpm=6)
    assert made.claims.expires_at == int(NOW + 60)
    later = replace(MINTER, aliases=("mistral/*",), max_tokens=20, end_user_limits=Limits(rpm=4, tpm=100))
    card = ephemeral.narrowed(later, made.claims)
    assert (card.kind, card.id, card.aliases, card.max_tokens) == ("ephemeral", MINTER.id, ("mistral/small*",), 20)
    assert (card.end_user_limits, card.cidrs, card.repepper) == (Limits(rpm=4, tpm=100), (), False)
    assert ephemeral.narrowed(replace(MINTER, aliases=("fast",)), made.claims).aliases == ()
    narrow = mint(endpoints=["embeddings"]).claims
    assert ephemeral.narrowed(replace(MINTER, endpoints=("completions",)), narrow).endpoints == ("none",)


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        (("a",), ("a",), ("a",)),
        (("a",), ("b",), ()),
        (("a/*",), ("a/b",), ("a/b",)),
        (("a/b",), ("a/*", "*"), ("a/b",)),
        (("*",), ("a", "b/*"), ("a", "b/*")),
        (("a/*",), ("a/b*",), ("a/b*",)),
        (("a/*",), ("a",), ()),
        (("a*",), ("a",), ("a",)),
        (("ab*",), ("a*",), ("ab*",)),
    ],
)
def test_two_lists_of_patterns_allow_together_what_both_allow(
    one: tuple[str, ...], other: tuple[str, ...], expected: tuple[str, ...]
) -> None:
    assert ephemeral.both(one, other) == expected
    assert set(ephemeral.both(other, one)) == set(expected)
