"""Who a token belongs to: a bounded memory of client keys, so that a known key costs no query.

Entries are found by the whole HMAC of the token, never by a part of it. Keys from elsewhere are not kept here: their
digests are all in the catalog.
"""

import hmac
import logging
import time
from collections.abc import Callable
from enum import Enum
from typing import Final

import msgspec

from providers import keys, peppers, repepper, snapshot
from providers.cards import BadRow, key_card
from providers.models import ClientKey
from providers.targets import KeyCard

MAX_ENTRIES = 10_000
KNOWN_FOR = 60.0  # seconds
UNKNOWN_FOR = 5.0
DUMMY = bytes(keys.DIGEST_BYTES)

log = logging.getLogger("providers.keyring")


class Verdict(Enum):
    """What memory says of a token that it has no card for."""

    UNKNOWN = "nobody's"
    MISSING = "not looked up yet"


UNKNOWN: Final = Verdict.UNKNOWN
MISSING: Final = Verdict.MISSING


class Entry(msgspec.Struct, frozen=True):
    """A card, or None for nobody's; good until either clock has passed its time.

    The wall clock counts because a frozen process's monotonic clock may stand still, the other because the wall clock
    may be set back.
    """

    card: KeyCard | None
    wall: float
    monotonic: float


class Keyring:
    """`find` is for the event loop and reads memory only; `load` and `forget` are for the one SQL thread."""

    def __init__(
        self, *, wall: Callable[[], float] = time.time, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._wall = wall
        self._monotonic = monotonic
        self._known: dict[bytes, Entry] = {}
        self._unknown: dict[bytes, Entry] = {}
        self._digest_of: dict[str, bytes] = {}
        self._by_id: dict[str, Entry] = {}  # keys that have minted a token, which names them

    def find(self, token: str) -> KeyCard | Verdict:
        """The card, UNKNOWN for a token that is nobody's, or MISSING where `load` has to look it up."""
        parsed = keys.parse(token)
        if isinstance(parsed, keys.Malformed):
            return UNKNOWN
        card = _in_catalog(token)
        if card is not None:
            return card
        if parsed is None:
            return UNKNOWN
        digest = keys.digest(peppers.primary()[1], token)
        entry = self._known.get(digest) or self._unknown.get(digest)
        if entry is None or self._wall() >= entry.wall or self._monotonic() >= entry.monotonic:
            return MISSING
        return entry.card or UNKNOWN

    def load(self, token: str) -> KeyCard | None:
        """Look a token up, with at most one query, and remember what came of it; None for nobody's."""
        parsed = keys.parse(token)
        if not isinstance(parsed, keys.Parsed):
            found = self.find(token)
            return found if isinstance(found, KeyCard) else None
        card = _in_catalog(token) or _in_database(parsed.id, token)
        self._remember(keys.digest(peppers.primary()[1], token), card)
        return card

    def find_by_id(self, key_id: str) -> KeyCard | Verdict:
        """The card of a key that a genuine token names; MISSING where `load_by_id` has to look it up."""
        card = snapshot.current().keys_by_id.get(key_id)
        if card is not None:
            return card
        entry = self._by_id.get(key_id)
        if entry is None or self._wall() >= entry.wall or self._monotonic() >= entry.monotonic:
            return MISSING
        return entry.card or UNKNOWN

    def load_by_id(self, key_id: str) -> None:
        """Look a key up, with one query, and remember what came of it."""
        row = ClientKey.objects.by_id(key_id)
        card = _card(row) if row is not None else None
        kept = UNKNOWN_FOR if card is None else KNOWN_FOR
        self._by_id.pop(key_id, None)
        if len(self._by_id) >= MAX_ENTRIES:
            del self._by_id[next(iter(self._by_id))]
        self._by_id[key_id] = Entry(card, self._wall() + kept, self._monotonic() + kept)

    def forget(self, key_id: str | None) -> None:
        """A key has changed, or with None any number of them: look it up again, and all that were nobody's too."""
        self._unknown = {}
        if key_id is None:
            self._known, self._digest_of, self._by_id = {}, {}, {}
            return
        self._by_id.pop(key_id, None)
        digest = self._digest_of.pop(key_id, None)
        if digest is not None:
            self._known.pop(digest, None)

    def _remember(self, digest: bytes, card: KeyCard | None) -> None:
        entries, kept = (self._unknown, UNKNOWN_FOR) if card is None else (self._known, KNOWN_FOR)
        self._known.pop(digest, None)
        self._unknown.pop(digest, None)
        if len(entries) >= MAX_ENTRIES:
            oldest = entries.pop(next(iter(entries)))
            if oldest.card is not None:
                self._digest_of.pop(oldest.card.id, None)
        entries[digest] = Entry(card, self._wall() + kept, self._monotonic() + kept)
        if card is not None:
            self._digest_of[card.id] = digest


def renew(token: str) -> None:
    """Move a key whose card says `repepper` to the pepper for writing; once it is there, it does nothing."""
    row = ClientKey.objects.with_token(token)
    if row is not None:
        repepper.move(row, token)


def _in_catalog(token: str) -> KeyCard | None:
    """A key from elsewhere, or one that the environment declares: one HMAC a pepper, or none without such keys."""
    held = snapshot.current().keys
    if not held:
        return None
    for pepper_id, pepper in peppers.ring().items():
        digest = keys.digest(pepper, token)
        card = held.get(digest)
        if card is not None and card.pepper_id == pepper_id and hmac.compare_digest(card.digest, digest):
            return card
    return None


def _in_database(key_id: str, token: str) -> KeyCard | None:
    row = ClientKey.objects.by_id(key_id)
    pepper = peppers.ring().get(row.pepper_id) if row else None
    if row is None or pepper is None:
        # An id that nobody has takes as long to refuse as a wrong secret.
        keys.matches(peppers.primary()[1], token, DUMMY)
        return None
    if not keys.matches(pepper, token, bytes(row.digest)):
        return None
    return _card(row)


def _card(row: ClientKey) -> KeyCard | None:
    try:
        return key_card(row)
    except BadRow as error:
        log.error("left out: %s", error)
        return None


_shared = Keyring()
# Those of this process.
find = _shared.find
load = _shared.load
find_by_id = _shared.find_by_id
load_by_id = _shared.load_by_id
forget = _shared.forget
