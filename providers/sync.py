"""A configuration and the rows: as one form that can be compared, exported and imported.

A view is what the file says of one name, as plain JSON with every setting in it; two views differ where rows differ.
Credentials that are stored encrypted are in no view: they are neither exported nor touched.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec
from django.db.models import Q
from django.utils import timezone

from providers import allowances
from providers.configfile import AliasEntry, Configuration, KeyEntry, ProviderEntry, defaults
from providers.models import ClientKey, ModelAlias, Provider, Team, settings_of

View = dict[str, Any]
PROVIDERS, ALIASES, TEAMS, KEYS = SECTIONS = ("providers", "aliases", "teams", "keys")
AnyRow = Provider | ModelAlias | Team | ClientKey
# What the file need not say: parse() gives the same for what is missing.
DEFAULTS: Mapping[str, View] = {
    PROVIDERS: {"options": {}, "quirks": {}, "timeouts": {}, "credentials": {}, "enabled": True},
    ALIASES: {
        "strategy": "ordered",
        "retry_after_timeout": False,
        "early_200": False,
        "enabled": True,
        **defaults(allowances.ALIAS),
    },
    TEAMS: {"enabled": True, **defaults(allowances.TEAM)},
    KEYS: {
        "kind": allowances.SECRET,
        "aliases": ["*"],
        "expires_at": None,
        "enabled": True,
        "team": "",
        **defaults(allowances.KEY),
    },
}


class Change(msgspec.Struct, frozen=True):
    """One name whose rows differ from the file: `action` is create, update, adopt or delete."""

    action: str
    section: str
    name: str
    fields: Mapping[str, tuple[Any, Any]] = msgspec.field(default_factory=dict)

    def lines(self) -> list[str]:
        sign = {"create": "+", "delete": "-"}.get(self.action, "~")
        note = " (adopted from the admin)" if self.action == "adopt" else ""
        head = f"{sign} {self.section}.{self.name}{note}"
        return [head, *(f"    {name}: {old!r} -> {new!r}" for name, (old, new) in sorted(self.fields.items()))]

    def as_json(self) -> dict[str, Any]:
        fields = {name: list(pair) for name, pair in sorted(self.fields.items())}
        return {"action": self.action, "section": self.section, "name": self.name, "fields": fields}


class Rows:
    """All rows by name; a name that several client keys have stands for none of them."""

    def __init__(self) -> None:
        self.providers = {row.name: row for row in Provider.objects.prefetch_related("credentials")}
        self.aliases = {row.name: row for row in ModelAlias.objects.prefetch_related("routes__provider")}
        self.teams = {row.name: row for row in Team.objects.all()}
        self.keys: dict[str, ClientKey] = {}
        self.ambiguous_keys: set[str] = set()
        # A key that was rotated has the name of its successor, which holds the settings from then on.
        # One that was revoked is gone for good: a file that still names it makes no live key of it again.
        revoked = Q(enabled=False, expires_at__lte=timezone.now())
        rows = ClientKey.objects.filter(~revoked, successor=None).select_related("team")
        for row in rows.order_by("created_at", "id"):
            if row.name in self.keys:
                self.ambiguous_keys.add(row.name)
            self.keys[row.name] = row
        for name in self.ambiguous_keys:
            del self.keys[name]

    def section(self, name: str) -> Mapping[str, AnyRow]:
        found: Mapping[str, Mapping[str, AnyRow]]
        found = {PROVIDERS: self.providers, ALIASES: self.aliases, TEAMS: self.teams, KEYS: self.keys}
        return found[name]

    def views(self) -> dict[str, dict[str, View]]:
        return {section: {name: view_of(row) for name, row in self.section(section).items()} for section in SECTIONS}

    def sealed(self) -> list[str]:
        """The paths of the credentials that are stored encrypted, and so are in no view."""
        return sorted(
            f"providers.{name}.credentials.{credential.name}"
            for name, row in self.providers.items()
            for credential in row.credentials.all()
            if credential.sealed
        )


def view_of(row: AnyRow) -> View:
    """What the file would say of a row."""
    if isinstance(row, Provider):
        return {
            "dialect": row.dialect,
            "base_url": row.base_url,
            "options": row.options,
            "quirks": row.quirks,
            "timeouts": row.timeouts,
            "credentials": {item.name: item.reference for item in row.credentials.all() if item.reference},
            "enabled": row.enabled,
        }
    if isinstance(row, ModelAlias):
        routes = [(route.provider.name, route.model, route.weight) for route in row.routes.all()]
        view = _alias_view(row.strategy, routes, row.retry_after_timeout, row.early_200, row.enabled)
        return {**view, **settings_of(row, allowances.ALIAS)}
    if isinstance(row, Team):
        return {"enabled": row.enabled, **settings_of(row, allowances.TEAM)}
    return {
        "kind": row.kind,
        "aliases": list(row.aliases),
        "expires_at": _moment(row.expires_at),
        "enabled": row.enabled,
        "team": row.team.name if row.team else "",
        **settings_of(row, allowances.KEY),
    }


def views_of(config: Configuration) -> dict[str, dict[str, View]]:
    """What the file says, by section and name, with every default in it."""
    return {
        PROVIDERS: {entry.name: _provider_view(entry) for entry in config.providers},
        ALIASES: {entry.name: _entry_alias_view(entry) for entry in config.aliases},
        TEAMS: {entry.name: {"enabled": entry.enabled, **entry.settings} for entry in config.teams},
        KEYS: {entry.name: _key_view(entry) for entry in config.keys},
    }


def compare(old: dict[str, dict[str, View]], new: dict[str, dict[str, View]]) -> list[Change]:
    """What leads from the old views to the new ones, in the order of sections and names."""
    changes: list[Change] = []
    for section in SECTIONS:
        before, after = old[section], new[section]
        for name in sorted({*before, *after}):
            if name not in after:
                changes.append(Change("delete", section, name))
            elif name not in before:
                changes.append(Change("create", section, name))
            elif fields := differences(before[name], after[name]):
                changes.append(Change("update", section, name, fields))
    return changes


def differences(old: View, new: View) -> dict[str, tuple[Any, Any]]:
    return {name: (old[name], new[name]) for name in new if old[name] != new[name]}


def document(views: dict[str, dict[str, View]]) -> dict[str, dict[str, View]]:
    """The views as a file says them: without what it need not say."""
    return {
        section: {name: _brief(view, DEFAULTS[section]) for name, view in views[section].items()}
        for section in SECTIONS
        if views[section] or section != TEAMS
    }


def _brief(view: View, defaults: View) -> View:
    return {name: value for name, value in view.items() if name not in defaults or value != defaults[name]}


def _provider_view(entry: ProviderEntry) -> View:
    return {
        "dialect": entry.values.dialect,
        "base_url": entry.values.base_url,
        "options": dict(entry.values.options),
        "quirks": dict(entry.values.quirks),
        "timeouts": dict(entry.values.timeouts),
        "credentials": dict(entry.credentials),
        "enabled": entry.enabled,
    }


def _entry_alias_view(entry: AliasEntry) -> View:
    routes = [(route.provider, route.model, route.weight) for route in entry.routes]
    view = _alias_view(entry.strategy, routes, entry.retry_after_timeout, entry.early_200, entry.enabled)
    return {**view, **entry.settings}


def _alias_view(
    strategy: str, routes: list[tuple[str, str, int]], retry_after_timeout: bool, early_200: bool, enabled: bool
) -> View:
    return {
        "strategy": strategy,
        "routes": [{"provider": provider, "model": model, "weight": weight} for provider, model, weight in routes],
        "retry_after_timeout": retry_after_timeout,
        "early_200": early_200,
        "enabled": enabled,
    }


def _key_view(entry: KeyEntry) -> View:
    return {
        "kind": entry.kind,
        "aliases": list(entry.aliases),
        "expires_at": _moment(entry.expires_at),
        "enabled": entry.enabled,
        "team": entry.team,
        **entry.settings,
    }


def _moment(value: datetime | None) -> str | None:
    return value.astimezone(UTC).isoformat() if value else None
