"""Provider credentials at rest: AES-256-GCM, bound to one row and one origin (pure).

A sealed value reads `v1.<key id>.<nonce>.<ciphertext and tag>`, both in unpadded base64url. Its associated data is
`v1|provider_credential|<row id>|<scheme://host:port>`: moved to another row, or to a provider with another address, it
no longer opens. NIST SP 800-38D (https://doi.org/10.6028/NIST.SP.800-38D) allows 2**32 random nonces a key.
"""

import base64
import binascii
import re
import secrets
from collections.abc import Mapping
from typing import TYPE_CHECKING

from providers.secret import Secret

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

VERSION = "v1"
NONCE_BYTES = 12
KEY_BYTES = 32
# 16 characters of nonce, and at least the 22 of a bare tag.
FORM = re.compile(r"v1\.[^.\s|]+\.[A-Za-z0-9_-]{16}\.[A-Za-z0-9_-]{22,}\Z")


class VaultError(Exception):
    """A value cannot be sealed or opened. The message names no secret."""


class NotSealed(VaultError):
    """The value is not of the sealed form."""

    def __init__(self) -> None:
        super().__init__("is not a sealed value")


class UnknownKeyId(VaultError):
    """The value was sealed with an encryption key that is not configured here."""

    def __init__(self, key_id: str) -> None:
        super().__init__(f"was sealed with the encryption key {key_id!r}, which is not in GATEWAY_ENCRYPTION_KEYS")
        self.key_id = key_id


class DoesNotDecrypt(VaultError):
    """Another key of the same id, another row, another origin, or a damaged value: they cannot be told apart."""

    def __init__(self, key_id: str) -> None:
        super().__init__(
            f"does not decrypt with the encryption key {key_id!r}: the key, the row or the provider's address is not "
            "the one that it was sealed for"
        )
        self.key_id = key_id


def is_sealed(value: str) -> bool:
    return FORM.match(value) is not None


def key_id_of(value: str) -> str:
    """The id of the encryption key that a sealed value names; raises NotSealed."""
    if not is_sealed(value):
        raise NotSealed
    return value.split(".", 2)[1]


def seal(keys: Mapping[str, bytes], secret: str, *, row_id: str, origin: str) -> str:
    """Seal with the first of `keys` (32 bytes each); raises VaultError where there is none, or nothing to seal."""
    if not keys:
        raise VaultError("cannot be sealed: GATEWAY_ENCRYPTION_KEYS holds no key")
    if not secret:
        raise VaultError("cannot be sealed: it is empty")
    key_id, key = next(iter(keys.items()))
    nonce = secrets.token_bytes(NONCE_BYTES)
    sealed = _cipher(key).encrypt(nonce, secret.encode(), _associated(row_id, origin))
    return f"{VERSION}.{key_id}.{_encode(nonce)}.{_encode(sealed)}"


def unseal(keys: Mapping[str, bytes], value: str, *, row_id: str, origin: str) -> Secret:
    """Open a sealed value with the one key that it names; raises NotSealed, UnknownKeyId or DoesNotDecrypt."""
    key_id = key_id_of(value)
    key = keys.get(key_id)
    if key is None:
        raise UnknownKeyId(key_id)
    _, _, nonce, sealed = value.split(".")
    from cryptography.exceptions import InvalidTag

    try:
        opened = _cipher(key).decrypt(_decode(nonce), _decode(sealed), _associated(row_id, origin))
    except (InvalidTag, binascii.Error):
        raise DoesNotDecrypt(key_id) from None
    return Secret(opened.decode())


def _cipher(key: bytes) -> "AESGCM":
    # A start without a database has nothing sealed; proxysite.onlambda imports it for one that has.
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    return AESGCM(key)


def _associated(row_id: str, origin: str) -> bytes:
    return f"{VERSION}|provider_credential|{row_id}|{origin}".encode()


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _decode(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
