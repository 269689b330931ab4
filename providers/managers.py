"""Look-ups and births of client keys."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from providers import aliases as alias_names
from providers import allowances, keys, peppers
from providers.changes import TrackedManager

if TYPE_CHECKING:
    from providers.models import ClientKey

# Keys from elsewhere are held in every process's memory.
MAX_FOREIGN = 10_000
LAST = 4
MIN_HINTED = 16


class KeyRefused(ValueError):
    """The key or its settings cannot be taken; the message is for the operator and names no secret."""


class ClientKeyManager(TrackedManager["ClientKey"]):
    def mint(
        self,
        name: str,
        *,
        aliases: Sequence[str] = ("*",),
        expires_at: datetime | None = None,
        kind: str = allowances.SECRET,
        **given: Any,
    ) -> "tuple[ClientKey, str]":
        """A new key and its row; `given` are settings of allowances.KEY and other columns; raises KeyRefused.

        The token is in no other place: show it once.
        """
        given = {**_checked(name, aliases, given, kind), "kind": kind}
        minted = keys.mint(keys.PREFIX_OF[kind])
        row = self._born(minted.token, id=minted.id, name=name, aliases=list(aliases), expires_at=expires_at, **given)
        return row, minted.token

    def adopt(
        self,
        token: str,
        *,
        name: str,
        aliases: Sequence[str] = ("*",),
        expires_at: datetime | None = None,
        **given: Any,
    ) -> "ClientKey":
        """Take over a key that is out in the field, of any form but our own; raises KeyRefused."""
        given = _checked(name, aliases, given)
        if keys.parse(token) is not None:
            raise KeyRefused(
                f"a key from elsewhere has 1 to {keys.FOREIGN_CHARS} printable ASCII characters, no space at an end, "
                "and does not begin like the gateway's own (sk-gw-, pk-gw-, ek-gw-)"
            )
        known = self.with_token(token)
        if known is not None:
            raise KeyRefused(f"that key is known already, as {known.name!r} ({known.id})")
        if self.filter(foreign=True).count() >= MAX_FOREIGN:
            raise KeyRefused(f"there are {MAX_FOREIGN} keys from elsewhere already: revoke and delete some")
        return self._born(token, name=name, aliases=list(aliases), expires_at=expires_at, foreign=True, **given)

    def with_token(self, token: str) -> "ClientKey | None":
        """The row of a token under any configured pepper."""
        for pepper_id, pepper in peppers.ring().items():
            row: ClientKey | None = self.filter(pepper_id=pepper_id, digest=keys.digest(pepper, token)).first()
            if row is not None:
                return row
        return None

    def by_id(self, key_id: str) -> "ClientKey | None":
        """The row of a public id; None where there is none."""
        row: ClientKey | None = self.select_related("team").filter(pk=key_id).first()
        return row

    def _born(self, token: str, **fields: object) -> "ClientKey":
        pepper_id, pepper = peppers.primary()
        # Of a short key four characters would give away too much.
        last = token[-LAST:] if len(token) >= MIN_HINTED else ""
        row: ClientKey = self.create(pepper_id=pepper_id, digest=keys.digest(pepper, token), last_four=last, **fields)
        return row


def _checked(
    name: str, aliases: Sequence[str], given: Mapping[str, Any], kind: str = allowances.SECRET
) -> dict[str, Any]:
    """The settings as they are stored, beside the other columns; raises KeyRefused."""
    if not name.strip() or len(name) > 100:
        raise KeyRefused("a key's name has 1 to 100 characters")
    try:
        alias_names.check_all(list(aliases))
        values = allowances.checked(allowances.KEY, given)
        for setting, wrong in allowances.faults_of_kind(kind, aliases, values).items():
            raise ValueError(f"{setting} {wrong}")
        return {**given, **values}
    except ValueError as error:
        raise KeyRefused(str(error)) from None
