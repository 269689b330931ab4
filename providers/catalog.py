"""Keeps the current catalog current: a full load once a minute, and between them only what the change table names."""

import logging
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import timedelta
from typing import TypeVar

import msgspec
from django.db import DatabaseError
from django.db.models import Q
from django.utils import timezone

from providers import keyring, overlay
from providers.cards import BadRow, alias_card, credential_card, issuer_card, key_card, provider_card
from providers.changelog import ChangeLog
from providers.changes import EVERY, ChangeTarget
from providers.endusers import read_end_users
from providers.issuers import IssuerCard
from providers.managers import MAX_FOREIGN
from providers.models import ClientKey, Credential, Issuer, ModelAlias, Provider, Route
from providers.purging import read_marks
from providers.snapshot import Catalog, build, current, install
from providers.targets import AliasCard, CredentialCard, EndUserCard, KeyCard, ProviderCard

__all__ = ["Catalog", "Reader", "current", "install"]

FULL_EVERY = 60.0  # seconds
# Beyond this many changed ids of a kind, all of the kind is read: SQLite bounds a statement's parameters.
MAX_IDS = 900
# Keys whose pages' origins are held; beyond them a page of the newest gets no answer to its preflight.
MAX_WEB_KEYS = 10_000
# No request lasts as long.
COMPROMISED_FOR = timedelta(days=1)

log = logging.getLogger("providers.catalog")
Cards = TypeVar("Cards", ProviderCard, AliasCard, KeyCard)


class Reader:
    """Reads the database for one process. Its methods block: all of them are called on the one SQL thread.

    A bad row is left out and logged by its name. Where the database does not answer, the last good catalog stays, and
    at the start what the environment and the configuration file declare.
    """

    def __init__(
        self,
        *,
        database: bool = True,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._wall = wall
        self._monotonic = monotonic
        self._log = ChangeLog(monotonic)
        self._overlay = overlay.Overlay()
        self._providers: Mapping[str, ProviderCard] = {}
        self._aliases: Mapping[str, AliasCard] = {}
        self._keys: Mapping[str, KeyCard] = {}
        self._compromised: frozenset[str] = frozenset()
        self._purges: Mapping[str, str] = {}
        self._origins: frozenset[str] = frozenset()
        self._end_users: Mapping[tuple[str, str], EndUserCard] = {}
        self._issuers: tuple[IssuerCard, ...] = ()
        self._loaded: tuple[float, float] | None = None  # wall and monotonic time of the last full load
        self._failing = False

    def load(self) -> bool:
        """Read everything and install it; False where that failed as a whole."""
        self._read_overlay()
        try:
            if self._database:
                self._forget(self._log.restart())
                self._providers, self._aliases, self._keys = read_providers(), read_aliases(), read_keys()
                self._compromised, self._purges = read_compromised(), read_marks()
                self._origins, self._end_users = read_origins(), read_end_users()
                self._issuers = read_issuers()
        except Exception as error:  # whatever it is, requests go on with what there is
            self._failed(error)
            if not current().loaded_at:
                self._install(loaded_at=0.0)
            return False
        self._loaded = self._wall(), self._monotonic()
        self._install(loaded_at=self._wall())
        self._recovered()
        self._prune()
        return True

    def refresh(self) -> bool:
        """Look at the change table and read what it names, or everything when that is due; False where it failed."""
        if self._is_full_due():
            return self.load()
        try:
            news = self._log.news() if self._database else set()
            self._forget(news)
            self._read_changed(news)
        except Exception as error:
            self._failed(error)
            # The changes that were just seen are not read yet, and will not be named again.
            self._loaded = None
            return False
        if news:
            self._install(loaded_at=self._wall())
        else:
            install(msgspec.structs.replace(current(), loaded_at=self._wall()))
        return True

    def _is_full_due(self) -> bool:
        if self._loaded is None:
            return True
        wall, monotonic = self._loaded
        # Both clocks: the monotonic one stands still while a Lambda environment is frozen, the wall clock may be set.
        return self._monotonic() - monotonic >= FULL_EVERY or abs(self._wall() - wall) >= FULL_EVERY

    def _read_changed(self, news: Iterable[ChangeTarget]) -> None:
        changed: dict[str, set[str]] = defaultdict(set)
        for kind, object_id in news:
            changed[kind].add(object_id)
        if "provider" in changed:
            self._providers = merged(self._providers, changed["provider"], read_providers)
        if "modelalias" in changed:
            self._aliases = merged(self._aliases, changed["modelalias"], read_aliases)
        if "team" in changed:
            # A key's card holds its team's.
            changed["clientkey"].add(EVERY)
        if "clientkey" in changed:
            self._keys = merged(self._keys, changed["clientkey"], read_keys)
            self._compromised, self._origins = read_compromised(), read_origins()
        if "enduser" in changed:
            self._end_users = read_end_users()
        if "issuer" in changed:
            self._issuers = read_issuers()
        if "cachepurge" in changed:
            self._purges = read_marks()

    def _forget(self, news: Iterable[ChangeTarget]) -> None:
        for kind, object_id in news:
            if kind == "clientkey":
                keyring.forget(object_id or None)
            elif kind == "team":
                keyring.forget(None)

    def _read_overlay(self) -> None:
        try:
            self._overlay = overlay.load()
        except Exception as error:
            log.error("the configuration of the environment cannot be used: %s: %s", type(error).__name__, error)
            return
        for problem in self._overlay.problems:
            log.log(logging.WARNING if problem.weak else logging.ERROR, "%s %s", problem.place, problem.wrong)

    def _install(self, *, loaded_at: float) -> None:
        # The later one stays: a row beats what the environment declares under the same name.
        install(
            build(
                (*self._overlay.providers, *self._providers.values()),
                (*self._overlay.aliases, *self._aliases.values()),
                (*self._overlay.keys, *self._keys.values()),
                loaded_at,
                gateway_budgets=self._overlay.gateway_budgets,
                compromised=self._compromised,
                purges=self._purges,
                origins=self._origins,
                end_users=self._end_users,
                issuers=self._issuers,
            )
        )

    def _failed(self, error: Exception) -> None:
        if not self._failing:
            log.error("the configuration cannot be read, the last one stays: %s: %s", type(error).__name__, error)
        self._failing = True

    def _recovered(self) -> None:
        if self._failing:
            log.warning("the configuration can be read again")
        self._failing = False

    def _prune(self) -> None:
        try:
            if self._database:
                self._log.prune()
        except DatabaseError as error:
            log.warning("old changes cannot be deleted: %s", error)


def merged(
    cards: Mapping[str, Cards], ids: Collection[str], read: Callable[[Collection[str] | None], dict[str, Cards]]
) -> dict[str, Cards]:
    """A copy of `cards` in which those of `ids` are read anew; what is gone or bad by now is no longer there."""
    if EVERY in ids or len(ids) > MAX_IDS:
        return read(None)
    return {**{key: card for key, card in cards.items() if key not in ids}, **read(ids)}


def read_providers(ids: Collection[str] | None = None) -> dict[str, ProviderCard]:
    """The cards of those providers, of all by default; bad rows are left out."""
    rows, tokens = Provider.objects.all(), Credential.objects.all()
    if ids is not None:
        rows, tokens = rows.filter(pk__in=ids), tokens.filter(provider_id__in=ids)
    found: dict[str, ProviderCard] = {}
    tokens_of: dict[str, list[Credential]] = defaultdict(list)
    for token in tokens:
        tokens_of[token.provider_id].append(token)
    for row in rows:
        try:
            cards = _credential_cards(row, tokens_of[row.id])
            found[row.id] = provider_card(row, cards, broken=bool(tokens_of[row.id]) and not cards)
        except BadRow as error:
            log.error("left out: %s", error)
    return found


def _credential_cards(provider: Provider, rows: Iterable[Credential]) -> list[CredentialCard]:
    found: list[CredentialCard] = []
    for row in rows:
        row.provider = provider
        try:
            if row.enabled:
                found.append(credential_card(row))
        except BadRow as error:
            log.error("left out: %s", error)
    return found


def read_aliases(ids: Collection[str] | None = None) -> dict[str, AliasCard]:
    """The cards of those aliases that are enabled, of all by default; bad rows are left out."""
    rows, routes = ModelAlias.objects.filter(enabled=True), Route.objects.all()
    if ids is not None:
        rows, routes = rows.filter(pk__in=ids), routes.filter(alias_id__in=ids)
    routes_of: dict[str, list[Route]] = defaultdict(list)
    for route in routes:
        routes_of[route.alias_id].append(route)
    found: dict[str, AliasCard] = {}
    for row in rows:
        try:
            found[row.id] = alias_card(row, routes_of[row.id])
        except BadRow as error:
            log.error("left out: %s", error)
    return found


def read_keys(ids: Collection[str] | None = None) -> dict[str, KeyCard]:
    """The cards of those keys from elsewhere, of the oldest 10,000 by default; our own form is no part of it."""
    rows = ClientKey.objects.filter(foreign=True).select_related("team").order_by("created_at", "id")
    if ids is not None:
        rows = rows.filter(pk__in=ids)
    found: dict[str, KeyCard] = {}
    for row in rows[:MAX_FOREIGN]:
        try:
            found[row.id] = key_card(row)
        except BadRow as error:
            log.error("left out: %s", error)
    return found


def read_compromised() -> frozenset[str]:
    """The ids of the keys whose running requests are to be ended; of older ones none is running any more."""
    since = timezone.now() - COMPROMISED_FOR
    return frozenset(ClientKey.objects.filter(compromised_at__gte=since).values_list("pk", flat=True))


def read_origins() -> frozenset[str]:
    """The origins of the pages that any live key lets in; whether a key is that of the call is seen at the call."""
    now = timezone.now()
    rows = ClientKey.objects.filter(~Q(origins=[]), Q(expires_at=None) | Q(expires_at__gt=now), enabled=True)
    lists = rows.order_by("created_at").values_list("origins", flat=True)[:MAX_WEB_KEYS]
    return frozenset(text for texts in lists if isinstance(texts, list) for text in texts if isinstance(text, str))


def read_issuers() -> tuple[IssuerCard, ...]:
    """The cards of those that are enabled; bad rows are left out."""
    found: list[IssuerCard] = []
    for row in Issuer.objects.filter(enabled=True):
        try:
            found.append(issuer_card(row))
        except BadRow as error:
            log.error("left out: %s", error)
    return tuple(found)
