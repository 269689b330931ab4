"""Puts a configuration into the rows, in one transaction: all of it, or nothing."""

from collections.abc import Callable
from datetime import datetime
from typing import Any

import msgspec
from django.conf import settings
from django.db import transaction
from django.db.models import ProtectedError
from msgspec.structs import replace

from providers import allowances, keys, references
from providers.configfile import ConfigError, Configuration, KeyEntry
from providers.managers import KeyRefused
from providers.models import FROM_ADMIN, FROM_FILE, ClientKey, Credential, ModelAlias, Provider, Route, Team
from providers.overlay import weakness
from providers.sync import ALIASES, KEYS, PROVIDERS, SECTIONS, TEAMS, Change, Rows, View, compare, views_of


class Outcome(msgspec.Struct, frozen=True):
    """What was done, or would be; `pending` are the keys that the file names and nobody has made yet."""

    changes: tuple[Change, ...]
    pending: tuple[str, ...]


class _DryRun(Exception):
    """Ends the transaction of a dry run."""


def import_configuration(
    config: Configuration, *, dry_run: bool = False, prune: bool = False, adopt: bool = False
) -> Outcome:
    """Make the rows say what the file says; a second time changes nothing. Raises ConfigError, and changes nothing.

    `prune` deletes rows that an earlier file made and this one does not name; `adopt` takes over rows of the admin.
    A dry run does all of it and rolls back, so that what it says is what happens.
    """
    importer = _Importer(config, prune=prune, adopt=adopt)
    try:
        with transaction.atomic():
            importer.run()
            if dry_run:
                raise _DryRun
    except _DryRun:
        pass
    return Outcome(tuple(importer.changes), tuple(importer.pending))


class _Importer:
    def __init__(self, config: Configuration, *, prune: bool, adopt: bool) -> None:
        self.config = config
        self.prune, self.adopt = prune, adopt
        self.rows = Rows()
        self.changes: list[Change] = []
        self.pending: list[str] = []
        self.problems: list[str] = []

    def run(self) -> None:
        wanted = views_of(self.config)
        for entry in self.config.keys:
            if entry.name in self.rows.ambiguous_keys:
                self.problems.append(f"keys.{entry.name}: several client keys have this name: rename all but one")
            elif entry.name not in self.rows.keys and not entry.existing:
                self.pending.append(entry.name)
                del wanted[KEYS][entry.name]
        for change in compare(self.rows.views(), wanted):
            self._sort_out(change)
        self._adopt_unchanged(wanted)
        self.changes.sort(key=lambda change: (SECTIONS.index(change.section), change.name))
        self._refuse()
        for change in self.changes:
            if change.action != "delete":
                self._write(change, wanted[change.section][change.name])
        # Aliases before providers, keys before teams: a row protects what it leads to.
        for change in sorted(self.changes, key=lambda change: change.section):
            if change.action == "delete":
                self._delete(change)
        self._refuse()

    def _refuse(self) -> None:
        if self.problems:
            raise ConfigError(self.problems)

    def _sort_out(self, change: Change) -> None:
        """Keep the change, refuse it, or leave it: other rows of the admin are not its business."""
        row = self.rows.section(change.section).get(change.name)
        if change.action == "delete":
            if row is not None and row.source == FROM_FILE and self.prune:
                self.changes.append(change)
            return
        if row is not None and row.source == FROM_ADMIN:
            if not self.adopt:
                self.problems.append(
                    f"{change.section}.{change.name}: belongs to the admin: rename one of the two, or give --adopt"
                )
            change = replace(change, action="adopt")
        self.changes.append(change)

    def _adopt_unchanged(self, wanted: dict[str, dict[str, View]]) -> None:
        """Rows of the admin that already say what the file says become the file's, if they may."""
        found = {(change.section, change.name) for change in self.changes}
        for section, views in wanted.items():
            rows = self.rows.section(section)
            for name in views:
                if name in rows and rows[name].source == FROM_ADMIN and (section, name) not in found:
                    self._sort_out(Change("adopt", section, name))

    def _write(self, change: Change, view: View) -> None:
        writers: dict[str, Callable[[str, View], None]] = {
            PROVIDERS: self._provider,
            ALIASES: self._alias,
            TEAMS: self._team,
            KEYS: self._key,
        }
        writers[change.section](change.name, view)

    def _provider(self, name: str, view: View) -> None:
        row = self.rows.providers.get(name) or Provider(name=name)
        old_origin = row.origin
        for field in ("dialect", "base_url", "options", "quirks", "timeouts", "enabled"):
            setattr(row, field, view[field])
        row.source = FROM_FILE
        kept = {item.name: item for item in row.credentials.all()} if name in self.rows.providers else {}
        sealed = [item.name for item in kept.values() if item.sealed and item.name not in view["credentials"]]
        if sealed and row.origin != old_origin:
            self.problems.append(
                f"providers.{name}.base_url: another address, but the credential {sealed[0]} is sealed for "
                f"{old_origin}: delete it in the admin, or give a reference of that name"
            )
            return
        row.save()
        self.rows.providers[name] = row
        for item in kept.values():
            if item.reference and item.name not in view["credentials"]:
                item.delete()
        for credential, reference in view["credentials"].items():
            item = kept.get(credential) or Credential(provider=row, name=credential)
            item.reference, item.sealed, item.hint, item.source = reference, "", "", FROM_FILE
            item.save()

    def _alias(self, name: str, view: View) -> None:
        row = self.rows.aliases.get(name) or ModelAlias(name=name)
        for field in ("strategy", "retry_after_timeout", "early_200", "enabled", *allowances.ALIAS):
            setattr(row, field, view[field])
        row.source = FROM_FILE
        row.save()
        row.routes.all().delete()
        for position, route in enumerate(view["routes"]):
            provider = self.rows.providers[route["provider"]]
            Route.objects.create(
                alias=row,
                provider=provider,
                model=route["model"],
                weight=route["weight"],
                position=position,
                source=FROM_FILE,
            )

    def _team(self, name: str, view: View) -> None:
        row = self.rows.teams.get(name) or Team(name=name)
        for field in ("enabled", *allowances.TEAM):
            setattr(row, field, view[field])
        row.source = FROM_FILE
        row.save()
        self.rows.teams[name] = row

    def _key(self, name: str, view: View) -> None:
        row = self.rows.keys.get(name) or self._existing_key(next(e for e in self.config.keys if e.name == name))
        if row is None:
            return
        if row.kind != view["kind"]:
            self.problems.append(f"keys.{name}.kind: a key stays what it is, {row.kind}: give the new one a new name")
            return
        for field in ("aliases", "enabled", *allowances.KEY):
            setattr(row, field, view[field])
        row.team, row.source = self.rows.teams.get(view["team"]), FROM_FILE
        row.expires_at = datetime.fromisoformat(view["expires_at"]) if view["expires_at"] else None
        row.save()

    def _existing_key(self, entry: KeyEntry) -> ClientKey | None:
        try:
            token = references.resolve(entry.existing).reveal()
            wrong = "" if isinstance(keys.parse(token), keys.Parsed) or settings.DEVELOPMENT else weakness(token)
            if wrong:
                raise KeyRefused(f"the key in {entry.existing} {wrong}")
            return ClientKey.objects.adopt(token, name=entry.name)
        except (references.BadReference, KeyRefused) as error:
            self.problems.append(f"keys.{entry.name}.existing: {error}")
            return None

    def _delete(self, change: Change) -> None:
        try:
            self.rows.section(change.section)[change.name].delete()
        except ProtectedError as error:
            used = sorted({_user(row) for row in error.protected_objects})
            kind = "keys" if change.section == TEAMS else "aliases"
            self.problems.append(f"{change.section}.{change.name}: is still used by the {kind} {', '.join(used)}")


def _user(row: Any) -> str:
    return row.alias.name if isinstance(row, Route) else str(row.name)
