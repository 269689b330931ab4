import json
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from providers import vault

OLD, NEW = {"k1": bytes(range(32))}, {"k2": bytes(range(1, 33))}
HOME = {"row_id": "018f0000000070008000000000000001", "origin": "https://api.example.com:443"}


@given(st.text(min_size=1).filter(lambda text: text.isascii() or max(text) < "\ud800"))
def test_a_sealed_secret_opens_to_itself_and_does_not_show(secret: str) -> None:
    value = vault.seal(OLD, secret, **HOME)
    assert vault.is_sealed(value)
    assert vault.unseal(OLD, value, **HOME).reveal() == secret


def test_an_opened_secret_cannot_be_printed() -> None:
    secret = vault.unseal(OLD, vault.seal(OLD, "sk-canary", **HOME), **HOME)
    assert f"{secret} {secret!r} {secret:>5}" == "*** *** ***"
    assert b"canary" not in pickle.dumps(secret)
    with pytest.raises(TypeError):
        json.dumps(secret)


def test_the_value_names_version_and_key_and_holds_96_bits_of_nonce() -> None:
    version, key_id, nonce, sealed = vault.seal(OLD, "sk-1", **HOME).split(".")
    assert (version, key_id, len(nonce)) == ("v1", "k1", 16)
    assert len(sealed) == 27  # 4 bytes of text and 16 of tag, in base64 without padding
    assert vault.seal(OLD, "sk-1", **HOME) != vault.seal(OLD, "sk-1", **HOME)


def test_the_first_key_seals_and_any_opens() -> None:
    value = vault.seal({**NEW, **OLD}, "sk-1", **HOME)
    assert vault.key_id_of(value) == "k2"
    assert vault.unseal({**OLD, **NEW}, value, **HOME).reveal() == "sk-1"


@pytest.mark.parametrize("moved", [{"row_id": "other"}, {"origin": "https://evil.example.com:443"}, {"origin": ""}])
def test_s06_a_value_moved_to_another_row_or_origin_is_useless(moved: dict[str, str]) -> None:
    value = vault.seal(OLD, "sk-1", **HOME)
    with pytest.raises(vault.DoesNotDecrypt) as caught:
        vault.unseal(OLD, value, **{**HOME, **moved})
    assert caught.value.key_id == "k1"


def test_a_key_that_is_not_configured_is_named() -> None:
    with pytest.raises(vault.UnknownKeyId, match="'k1', which is not in GATEWAY_ENCRYPTION_KEYS") as caught:
        vault.unseal(NEW, vault.seal(OLD, "sk-1", **HOME), **HOME)
    assert caught.value.key_id == "k1"


def test_s48_another_key_under_the_same_id_does_not_decrypt() -> None:
    with pytest.raises(vault.DoesNotDecrypt):
        vault.unseal({"k1": bytes(32)}, vault.seal(OLD, "sk-1", **HOME), **HOME)


@given(st.integers(0, 26), st.sampled_from("AZaz09-_"))
def test_a_damaged_value_never_opens(place: int, char: str) -> None:
    value = vault.seal(OLD, "sk-1", **HOME)
    head, sealed = value.rsplit(".", 1)
    other = sealed[:place] + char + sealed[place + 1 :]
    # The last of 27 characters carries two bits of padding, which base64 ignores.
    if vault._decode(other) == vault._decode(sealed):
        return
    with pytest.raises(vault.DoesNotDecrypt):
        vault.unseal(OLD, f"{head}.{other}", **HOME)


@pytest.mark.parametrize(
    "value", ["", "sk-live-1", "v1.k1.short.AAAA", "v2.k1.AAAAAAAAAAAAAAAA.AAAAAAAAAAAAAAAAAAAAAA", "v1..A.A", "v1\n"]
)
def test_what_is_not_sealed_is_told_apart_from_what_does_not_open(value: str) -> None:
    assert not vault.is_sealed(value)
    with pytest.raises(vault.NotSealed, match="is not a sealed value"):
        vault.unseal(OLD, value, **HOME)


def test_nothing_is_sealed_without_a_key_or_without_a_secret() -> None:
    with pytest.raises(vault.VaultError, match="GATEWAY_ENCRYPTION_KEYS holds no key"):
        vault.seal({}, "sk-1", **HOME)
    with pytest.raises(vault.VaultError, match="it is empty"):
        vault.seal(OLD, "", **HOME)
