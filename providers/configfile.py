"""The configuration file: YAML with `providers`, `aliases`, `teams` and `keys`, read and checked as a whole (pure).

Every fault is found in one pass and named by its path, such as `aliases.fast.routes[0].provider`. Secrets stand in it
as references only, so that the file may be kept under version control.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, TypeVar

import msgspec

from providers import aliases as alias_names
from providers import allowances, places, references
from providers.addresses import AddressPolicy
from providers.draft import ProviderValues, settled
from providers.presets import Preset, presets

NAME = re.compile(r"[A-Za-z0-9_-]{1,60}")
KEY_NAME_CHARS = 100
MAX_CHARS = 4 * 1024 * 1024
MAX_WEIGHT = 32_767
MODEL_CHARS = 300
KNOWN = {
    "": {"providers", "aliases", "teams", "keys"},
    "provider": {"preset", "dialect", "base_url", "options", "quirks", "timeouts", "credentials", "enabled"},
    "alias": {"strategy", "routes", "retry_after_timeout", "early_200", "enabled", *allowances.ALIAS},
    "route": {"provider", "model", "weight"},
    "team": {"enabled", *allowances.TEAM},
    "key": {"kind", "aliases", "expires_at", "existing", "enabled", "team", *allowances.KEY},
}

Entry = TypeVar("Entry")
Settings = Mapping[str, Any]  # the settings of providers/allowances.py, every one of them


class ConfigError(Exception):
    """The configuration cannot be used; `problems` are sentences that begin with the path of the fault."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


def defaults(known: Mapping[str, allowances.Setting]) -> Settings:
    return allowances.settled(known, {})[0]


class ProviderEntry(msgspec.Struct, frozen=True):
    """A provider with its preset worked in; `credentials` are references by name."""

    name: str
    values: ProviderValues
    credentials: Mapping[str, str] = msgspec.field(default_factory=dict)
    enabled: bool = True


class RouteEntry(msgspec.Struct, frozen=True):
    provider: str
    model: str = ""
    weight: int = 1


class AliasEntry(msgspec.Struct, frozen=True):
    name: str
    routes: tuple[RouteEntry, ...] = ()
    strategy: str = "ordered"
    retry_after_timeout: bool = False
    early_200: bool = False
    enabled: bool = True
    settings: Settings = msgspec.field(default_factory=lambda: defaults(allowances.ALIAS))


class TeamEntry(msgspec.Struct, frozen=True):
    name: str
    enabled: bool = True
    settings: Settings = msgspec.field(default_factory=lambda: defaults(allowances.TEAM))


class KeyEntry(msgspec.Struct, frozen=True):
    """What a client key may do; `existing` refers to a key from elsewhere, "" for one that is minted here."""

    name: str
    aliases: tuple[str, ...] = ("*",)
    expires_at: datetime | None = None
    existing: str = ""
    enabled: bool = True
    team: str = ""
    kind: str = allowances.SECRET
    settings: Settings = msgspec.field(default_factory=lambda: defaults(allowances.KEY))


class Configuration(msgspec.Struct, frozen=True):
    """The whole file; each part is sorted by name."""

    providers: tuple[ProviderEntry, ...] = ()
    aliases: tuple[AliasEntry, ...] = ()
    teams: tuple[TeamEntry, ...] = ()
    keys: tuple[KeyEntry, ...] = ()


def read(place: str, policy: AddressPolicy, *, database: bool = True) -> Configuration:
    """The configuration at that path, `ssm:NAME` or `s3://BUCKET/KEY`; raises ConfigError."""
    try:
        text = places.read(place)
    except places.Unreadable as error:
        raise ConfigError([str(error)]) from None
    return parse(text, policy, database=database)


def parse(text: str, policy: AddressPolicy, *, database: bool = True) -> Configuration:
    """The configuration that the text holds; raises ConfigError with every fault found.

    Without a database, budgets are faults: nothing could hold them beyond one process.
    """
    if len(text) > MAX_CHARS:
        raise ConfigError([f"The file is longer than {MAX_CHARS} characters."])
    # Here, and not at the head: a gateway without such a file starts without YAML.
    from providers import yamltext

    reader = _Reader(policy, database=database)
    try:
        top = reader.mapping(yamltext.load(text), "", KNOWN[""])
    except yamltext.NotYaml as error:
        raise ConfigError([str(error)]) from None
    named = top.get("providers")
    reader.providers = frozenset(named) if isinstance(named, dict) else frozenset()
    named = top.get("teams")
    reader.teams = frozenset(named) if isinstance(named, dict) else frozenset()
    found = Configuration(
        tuple(reader.each(top, "providers", reader.provider)),
        tuple(reader.each(top, "aliases", reader.alias)),
        tuple(reader.each(top, "teams", reader.team)),
        tuple(reader.each(top, "keys", reader.key)),
    )
    if reader.problems:
        raise ConfigError(reader.problems)
    return found


class _Reader:
    """Turns plain data into entries, and collects what is wrong on the way."""

    def __init__(self, policy: AddressPolicy, *, database: bool) -> None:
        self.policy = policy
        self.database = database
        self.problems: list[str] = []
        self.providers: frozenset[Any] = frozenset()
        self.teams: frozenset[Any] = frozenset()

    def fault(self, path: str, message: str) -> None:
        self.problems.append(f"{path}: {message}" if path else message)

    def mapping(self, value: Any, path: str, known: set[str] | None = None) -> dict[str, Any]:
        """`value` as a mapping of texts; with `known`, other names are faults."""
        if value is None:
            return {}
        if not isinstance(value, dict):
            self.fault(path, "must be a mapping of names to values" if path else "The file must hold a mapping.")
            return {}
        for name in value:
            if not isinstance(name, str):
                self.fault(path, f"the name {name!r} is no text: put it in quotes")
            elif known is not None and not self.database and "budget" in name:
                self.fault(_join(path, name), "a budget needs a database: set DATABASE_URL, or take this out")
            elif known is not None and name not in known:
                self.fault(_join(path, name), f"is not known; there are {', '.join(sorted(known))}")
        return {name: item for name, item in value.items() if isinstance(name, str)}

    def each(self, top: dict[str, Any], section: str, read: Callable[[str, Any, str], Entry]) -> list[Entry]:
        found = self.mapping(top.get(section), section)
        return [read(name, found[name], _join(section, name)) for name in sorted(found)]

    def flag(self, entry: dict[str, Any], name: str, path: str, *, default: bool) -> bool:
        value = entry.get(name, default)
        if not isinstance(value, bool):
            self.fault(f"{path}.{name}", "must be true or false")
            return default
        return value

    def text(self, entry: dict[str, Any], name: str, path: str, default: str = "") -> str:
        value = entry.get(name, default)
        if not isinstance(value, str) or any(char < " " for char in value):
            self.fault(f"{path}.{name}", "must be a text on one line")
            return default
        return value

    def provider(self, name: str, value: Any, path: str) -> ProviderEntry:
        if not NAME.fullmatch(name):
            self.fault(path, "a provider's name has 1 to 60 letters, digits, hyphens and underscores")
        entry = self.mapping(value, path, KNOWN["provider"])
        preset = self._preset(entry, path)
        values = ProviderValues(
            dialect=self.text(entry, "dialect", path, preset.dialect if preset else "openai"),
            base_url=self.text(entry, "base_url", path, preset.base_url if preset else ""),
            options=self._over(preset.options if preset else {}, entry, "options", path),
            quirks=self._over(preset.quirks if preset else {}, entry, "quirks", path),
            timeouts=self._over(preset.timeouts if preset else {}, entry, "timeouts", path),
        )
        values, faults = settled(values, self.policy)
        for fault in faults:
            self.fault(f"{path}.{fault.field}", fault.message)
        credentials = self.mapping(entry.get("credentials"), f"{path}.credentials")
        for credential, reference in credentials.items():
            if not NAME.fullmatch(credential):
                self.fault(f"{path}.credentials.{credential}", "is no name of letters, digits, hyphens and underscores")
            self._reference(reference, f"{path}.credentials.{credential}")
        return ProviderEntry(name, values, credentials, self.flag(entry, "enabled", path, default=True))

    def _preset(self, entry: dict[str, Any], path: str) -> Preset | None:
        if "preset" not in entry:
            if "dialect" not in entry and "base_url" not in entry:
                self.fault(path, "give a preset, or a dialect and a base_url")
            return None
        name = self.text(entry, "preset", path)
        if name not in presets():
            self.fault(f"{path}.preset", f"no preset named {name!r}; there are {', '.join(presets())}")
        return presets().get(name)

    def _over(self, base: Mapping[str, Any], entry: dict[str, Any], name: str, path: str) -> dict[str, Any]:
        """The preset's values with the file's put over them, name by name."""
        given = self.mapping(entry.get(name), f"{path}.{name}")
        try:
            json.dumps(given, allow_nan=False)
        except (TypeError, ValueError):
            self.fault(f"{path}.{name}", "holds a value that is no JSON: put dates and the like in quotes")
            return dict(base)
        return {**base, **given}

    def _reference(self, value: Any, path: str) -> None:
        # A value that is no reference may be the secret itself, so it is never repeated.
        try:
            references.check(value if isinstance(value, str) else "")
        except references.BadReference as error:
            self.fault(path, f"{error}; the secret itself never stands in this file")

    def alias(self, name: str, value: Any, path: str) -> AliasEntry:
        self._alias_name(name, path)
        entry = self.mapping(value, path, KNOWN["alias"])
        strategy = self.text(entry, "strategy", path, "ordered")
        if strategy not in ("ordered", "weighted"):
            self.fault(f"{path}.strategy", f"there is no strategy {strategy!r}; there are ordered, weighted")
        routes = entry.get("routes")
        if not isinstance(routes, list) or not routes:
            self.fault(f"{path}.routes", "must be a list of at least one route, such as {provider: lab, model: gpt-4o}")
            routes = []
        return AliasEntry(
            name,
            routes=tuple(self._route(route, f"{path}.routes[{index}]") for index, route in enumerate(routes)),
            strategy=strategy,
            retry_after_timeout=self.flag(entry, "retry_after_timeout", path, default=False),
            early_200=self.flag(entry, "early_200", path, default=False),
            enabled=self.flag(entry, "enabled", path, default=True),
            settings=self._settings(allowances.ALIAS, entry, path),
        )

    def _settings(self, known: Mapping[str, allowances.Setting], entry: dict[str, Any], path: str) -> Settings:
        values, faults = allowances.settled(known, entry)
        for name, wrong in faults.items():
            self.fault(f"{path}.{name}", wrong)
        return values

    def team(self, name: str, value: Any, path: str) -> TeamEntry:
        self._short_name(name, path, "a team's name")
        entry = self.mapping(value, path, KNOWN["team"])
        enabled = self.flag(entry, "enabled", path, default=True)
        return TeamEntry(name, enabled, self._settings(allowances.TEAM, entry, path))

    def _route(self, value: Any, path: str) -> RouteEntry:
        entry = self.mapping(value, path, KNOWN["route"])
        provider = self.text(entry, "provider", path)
        if provider not in self.providers:
            self.fault(f"{path}.provider", f'no provider named "{provider}"')
        weight = entry.get("weight", 1)
        if isinstance(weight, bool) or not isinstance(weight, int) or not 1 <= weight <= MAX_WEIGHT:
            self.fault(f"{path}.weight", f"must be a whole number from 1 to {MAX_WEIGHT}")
            weight = 1
        model = self.text(entry, "model", path)
        if len(model) > MODEL_CHARS:
            self.fault(f"{path}.model", f"has at most {MODEL_CHARS} characters")
        return RouteEntry(provider, model, weight)

    def _alias_name(self, name: Any, path: str) -> None:
        try:
            alias_names.check(name)
        except ValueError as error:
            self.fault(path, str(error))

    def key(self, name: str, value: Any, path: str) -> KeyEntry:
        self._short_name(name, path, "a key's name")
        entry = self.mapping(value, path, KNOWN["key"])
        kind = self.text(entry, "kind", path, allowances.SECRET)
        if kind not in allowances.KINDS:
            self.fault(f"{path}.kind", f"there is no kind {kind!r}; there are {', '.join(allowances.KINDS)}")
        patterns = entry.get("aliases", ["*"])
        if not isinstance(patterns, list):
            self.fault(f"{path}.aliases", "must be a list such as [fast, mistral/*]")
            patterns = []
        settings = self._settings(allowances.KEY, entry, path)
        for setting, wrong in allowances.faults_of_kind(kind, patterns, settings).items():
            self.fault(f"{path}.{setting}", wrong)
        for index, pattern in enumerate(patterns):
            self._alias_name(pattern, f"{path}.aliases[{index}]")
        if "existing" in entry:
            self._reference(entry["existing"], f"{path}.existing")
        team = self.text(entry, "team", path)
        if team and team not in self.teams:
            self.fault(f"{path}.team", f'no team named "{team}"')
        return KeyEntry(
            name,
            aliases=tuple(patterns),
            expires_at=self._moment(entry.get("expires_at"), f"{path}.expires_at"),
            existing=entry.get("existing", ""),
            enabled=self.flag(entry, "enabled", path, default=True),
            team=team,
            kind=kind,
            settings=settings,
        )

    def _short_name(self, name: str, path: str, what: str) -> None:
        if not name.strip() or len(name) > KEY_NAME_CHARS:
            self.fault(path, f"{what} has 1 to {KEY_NAME_CHARS} characters")

    def _moment(self, value: Any, path: str) -> datetime | None:
        if isinstance(value, str):
            try:
                value = datetime.fromisoformat(value)
            except ValueError:
                value = ""
        if value is None or (isinstance(value, datetime) and value.tzinfo is not None):
            return value
        self.fault(path, "must be a time with its zone, such as 2030-01-31T00:00:00Z")
        return None


def _join(path: str, name: str) -> str:
    """`aliases.fast`, and `aliases."lab/*"` for a name that is not plain."""
    shown = name if NAME.fullmatch(name) else f'"{name}"'
    return f"{path}.{shown}" if path else shown
