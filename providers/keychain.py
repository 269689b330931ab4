"""The encryption keys as the vault is given them: bare ones, and ones that only AWS KMS can unwrap (pure).

A wrapped key is a data key, encrypted under a key that never leaves KMS, for an encryption context that names this use
and the key's id: https://docs.aws.amazon.com/kms/latest/developerguide/encrypt_context.html
"""

import base64
import logging
import time
from collections.abc import Callable, Iterator, Mapping

from providers import awscalls
from providers.vault import KEY_BYTES, VaultError

FORM = "kms:"
KEPT = 300.0  # seconds, wall time, for which an unwrapped key is used
RENEWED = 240.0  # seconds after which KMS is asked again, so that a short absence is not noticed
AGAIN = 10.0  # seconds after a failure before which KMS is not asked again

log = logging.getLogger("providers.keychain")


class Keychain(Mapping[str, bytes]):
    """By id, the one for writing first. Reading a wrapped key may ask KMS, which blocks; raises VaultError then."""

    def __init__(
        self, bare: Mapping[str, bytes], wrapped: Mapping[str, str], *, wall: Callable[[], float] = time.time
    ) -> None:
        """`bare` and `wrapped` (base64 of what KMS gave) have their ids in common, in the order of the list."""
        self.bare = {key_id: key for key_id, key in bare.items() if key_id not in wrapped}
        self._ids = tuple(bare)
        self._wrapped = dict(wrapped)
        self._wall = wall
        self._unwrapped: dict[str, tuple[float, bytes]] = {}
        self._failed: dict[str, tuple[float, str]] = {}

    def __getitem__(self, key_id: str) -> bytes:
        return self.bare[key_id] if key_id not in self._wrapped else self._unwrap(key_id)

    def __contains__(self, key_id: object) -> bool:
        return key_id in self._ids

    def __iter__(self) -> Iterator[str]:
        return iter(self._ids)

    def __len__(self) -> int:
        return len(self._ids)

    def __repr__(self) -> str:
        return f"Keychain({', '.join(self._ids)})"

    def _unwrap(self, key_id: str) -> bytes:
        now = self._wall()
        at, key = self._unwrapped.get(key_id, (0.0, b""))
        age = abs(now - at)
        if age < RENEWED:
            return key
        failed_at, reason = self._failed.get(key_id, (0.0, ""))
        if abs(now - failed_at) >= AGAIN:
            try:
                key = awscalls.decrypted(self._wrapped[key_id], context(key_id))
                if len(key) != KEY_BYTES:
                    raise awscalls.CallFailed(f"it has not {KEY_BYTES} bytes")
            except awscalls.CallFailed as error:
                reason = str(error)
                self._failed[key_id] = now, reason
                log.warning("the encryption key %s cannot be unwrapped: %s", key_id, reason)
            else:
                self._unwrapped[key_id] = now, key
                self._failed.pop(key_id, None)
                return key
        if age < KEPT:
            return key
        self._unwrapped.pop(key_id, None)
        raise VaultError(f"the encryption key {key_id!r} cannot be unwrapped: {reason}")


def context(key_id: str) -> dict[str, str]:
    """What a wrapped key is bound to; KMS unwraps it for nothing else, and writes it into its log."""
    return {"application": "llm-gateway", "encryption-key": key_id}


def wrapped_entry(key_id: str, kms_key: str) -> str:
    """A new entry for the list, made by KMS: nobody has seen the key itself. Raises awscalls.CallFailed."""
    return f"{key_id}:{FORM}{awscalls.wrapped_data_key(kms_key, context(key_id))}"


def is_wrapped(encoded: str) -> bool:
    try:
        return encoded.startswith(FORM) and len(base64.b64decode(encoded[len(FORM) :], validate=True)) > KEY_BYTES
    except ValueError:
        return False
