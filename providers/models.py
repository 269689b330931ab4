"""What an operator configures: providers, their credentials, model aliases with routes, client keys."""

from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any, ClassVar

from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.validators import MinValueValidator
from django.db import models
from django.utils import timezone

from providers import addresses, aliases, allowances, audit, dialects, issuers, quirks, references, timeouts, vault
from providers.changes import Change, Tracked
from providers.columns import Budgeted, Cached, Captured, Limited, default_alerts  # noqa: F401  migrations name it here
from providers.fields import SealedField
from providers.ids import uuid7
from providers.managers import ClientKeyManager
from providers.purging import CachePurge
from providers.secret import Secret

__all__ = ["CachePurge", "Change", "ClientKey", "Credential", "ModelAlias", "Provider", "Route", "Row", "Team"]

FROM_FILE = "file"
FROM_ADMIN = "admin"
SOURCES = [(FROM_ADMIN, "admin"), (FROM_FILE, "configuration file")]


class Row(Tracked):
    """What all configured rows have in common. `source` says who owns the row: an operator, or import_config."""

    id = models.CharField(primary_key=True, max_length=40, default=uuid7, editable=False)
    source = models.CharField(max_length=10, choices=SOURCES, default=FROM_ADMIN, editable=False)
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    updated_at = models.DateTimeField(auto_now=True, editable=False)

    class Meta(Tracked.Meta):
        abstract = True


class Provider(Row):
    """An upstream that speaks OpenAI's dialect, or almost."""

    name = models.SlugField(max_length=60, unique=True)
    dialect = models.CharField(max_length=40, choices=dialects.choices, default="openai")
    # Not a URLField: the admin would draw it as a link, and `javascript:` is a URL too.
    base_url = models.CharField("base URL", max_length=500, blank=True)
    options = models.JSONField(default=dict, blank=True)
    quirks = models.JSONField(default=dict, blank=True)
    timeouts = models.JSONField(default=dict, blank=True)
    enabled = models.BooleanField(default=True)

    history = audit.history()

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name

    def clean(self) -> None:
        """Refuse JSON that the catalog could not use; the errors stand at their fields."""
        wrong: dict[str, str] = {}
        for name, parse in (("quirks", quirks.parse), ("timeouts", timeouts.parse)):
            try:
                parse(getattr(self, name))
            except ValueError as error:
                wrong[name] = str(error)
        if not isinstance(self.options, dict):
            wrong["options"] = "must be an object"
        if wrong:
            raise ValidationError(wrong)

    @property
    def origin(self) -> str:
        """`scheme://host:port`, which its credentials are sealed for; "" without an address. Raises AddressError."""
        return addresses.origin(self.base_url) if self.base_url else ""


class Credential(Row):
    """One token of a provider: sealed with its row and the provider's origin, or a reference that is never stored."""

    provider = models.ForeignKey(Provider, on_delete=models.CASCADE, related_name="credentials")
    name = models.SlugField(max_length=60, default="main")
    sealed = SealedField(blank=True, default="", editable=False)
    reference = models.CharField(max_length=200, blank=True)  # env:NAME or ssm:NAME
    hint = models.CharField(max_length=20, blank=True, default="", editable=False)  # the last four characters
    enabled = models.BooleanField(default=True)

    history = audit.history(without=["sealed"])

    class Meta:
        ordering = ["created_at", "id"]
        constraints = [models.UniqueConstraint(fields=["provider", "name"], name="credential_name")]

    def __str__(self) -> str:
        return f"{self.provider.name}/{self.name}"

    def clean(self) -> None:
        if self.reference:
            try:
                references.check(self.reference)
            except references.BadReference as error:
                raise ValidationError({"reference": str(error)}) from None

    def change_target(self) -> tuple[str, str]:
        return "provider", self.provider_id

    @classmethod
    def change_kinds(cls) -> Collection[str]:
        return ("provider",)

    @property
    def seal_origin(self) -> str:
        return self.provider.origin

    def seal(self, secret: str) -> None:
        """Take in a token, sealed for this row and the provider's present origin; the caller saves; VaultError."""
        self.sealed = vault.seal(settings.GATEWAY_ENCRYPTION_KEYS, secret, row_id=self.id, origin=self.provider.origin)
        self.reference = ""
        # Of a short token four characters would give away too much.
        self.hint = secret[-4:] if len(secret) >= 16 else ""

    def unseal(self) -> Secret:
        """The token, out of its seal or from where its reference points; raises VaultError or BadReference."""
        if self.reference:
            return references.resolve(self.reference)
        return vault.unseal(settings.GATEWAY_ENCRYPTION_KEYS, self.sealed, row_id=self.id, origin=self.provider.origin)


def settings_of(row: "ModelAlias | Team | ClientKey", known: Mapping[str, allowances.Setting]) -> dict[str, Any]:
    return {name: getattr(row, name) for name in known}


def settle(row: "ModelAlias | Team | ClientKey", known: Mapping[str, allowances.Setting]) -> None:
    """Put the row's settings into the form in which they are stored; raises ValidationError at the fields."""
    values, faults = allowances.settled(known, settings_of(row, known))
    if faults:
        raise ValidationError({name: f"{wrong[0].upper()}{wrong[1:]}." for name, wrong in faults.items()})
    for name, value in values.items():
        setattr(row, name, value)


class ModelAlias(Limited, Cached, Captured, Row):
    """A name that clients ask for: exact, `prefix/*`, or `*`."""

    ORDERED, WEIGHTED = "ordered", "weighted"
    name = models.CharField(max_length=200, unique=True)
    strategy = models.CharField(
        max_length=10, choices=[(ORDERED, "in order"), (WEIGHTED, "by weight")], default=ORDERED
    )
    retry_after_timeout = models.BooleanField(default=False)
    early_200 = models.BooleanField("early 200", default=False)
    adapters = models.JSONField(default=list, db_default=[], blank=True)
    enabled = models.BooleanField(default=True)

    history = audit.history()

    class Meta:
        ordering = ["name"]
        verbose_name_plural = "model aliases"

    def __str__(self) -> str:
        return self.name

    def clean(self) -> None:
        if self.name:  # that it is missing is said by the field
            try:
                aliases.check(self.name)
            except ValueError as error:
                raise ValidationError({"name": str(error)}) from None
        settle(self, allowances.ALIAS)


class Route(Row):
    """One way to serve an alias: a provider and the model's name there."""

    alias = models.ForeignKey(ModelAlias, on_delete=models.CASCADE, related_name="routes")
    provider = models.ForeignKey(Provider, on_delete=models.PROTECT, related_name="routes")
    # "" is Predibase's base model; under a pattern it passes the name on.
    model = models.CharField("upstream model", max_length=300, blank=True, default="")
    position = models.PositiveSmallIntegerField(default=0)
    weight = models.PositiveSmallIntegerField(default=1, validators=[MinValueValidator(1)])

    history = audit.history()

    class Meta:
        ordering = ["position", "created_at", "id"]

    def __str__(self) -> str:
        return f"{self.provider.name}:{self.model}"

    def change_target(self) -> tuple[str, str]:
        return "modelalias", self.alias_id

    @classmethod
    def change_kinds(cls) -> Collection[str]:
        return ("modelalias",)


class Team(Limited, Budgeted, Row):
    """Client keys that share limits and a budget."""

    name = models.CharField(max_length=100, unique=True)
    enabled = models.BooleanField(default=True)

    history = audit.history()

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name

    def clean(self) -> None:
        settle(self, allowances.TEAM)


def every_alias() -> list[str]:
    return ["*"]


class ClientKey(Limited, Budgeted, Captured, Row):
    """What an application holds: an id, a digest and what the key may do. The key itself is shown once and not kept."""

    SECRET, PUBLISHABLE = allowances.KINDS
    name = models.CharField(max_length=100)
    kind = models.CharField(max_length=12, choices=[(kind, kind) for kind in allowances.KINDS], default=SECRET)
    pepper_id = models.CharField(max_length=40, editable=False)
    digest = models.BinaryField(max_length=32, editable=False)
    last_four = models.CharField(max_length=4, blank=True, editable=False)
    # A key brought from elsewhere has no id of ours in it: it is found by its digest, from the catalog.
    foreign = models.BooleanField(default=False, editable=False)
    # Patterns; an empty list allows nothing, so that taking the last one away does not open the rest.
    aliases = models.JSONField(default=every_alias, blank=True)
    expires_at = models.DateTimeField(null=True, blank=True)
    enabled = models.BooleanField(default=True)
    # Without its team a key would lose the team's limits: it is taken out of the team first.
    team = models.ForeignKey(Team, on_delete=models.PROTECT, null=True, blank=True, related_name="keys")
    end_user_rpm = models.PositiveIntegerField("requests a minute of an end user", default=0, db_default=0)
    end_user_tpm = models.PositiveIntegerField("tokens a minute of an end user", default=0, db_default=0)
    end_user_concurrency = models.PositiveIntegerField("requests at once of an end user", default=0, db_default=0)
    end_user_budget = models.CharField("budget of an end user", max_length=40, blank=True, default="", db_default="")
    endpoints = models.JSONField(default=list, db_default=[], blank=True)
    max_tokens = models.PositiveIntegerField("most output tokens", null=True, blank=True)
    max_n = models.PositiveIntegerField("most choices (n)", null=True, blank=True)
    cidrs = models.JSONField("source networks", default=list, db_default=[], blank=True)
    # Pages that may use a publishable key; of a secret key, those that the tokens which it mints may be meant for.
    origins = models.JSONField("web origins", default=list, db_default=[], blank=True)
    address_rpm = models.PositiveIntegerField("requests a minute of an address", default=0, db_default=0)
    address_tpm = models.PositiveIntegerField("tokens a minute of an address", default=0, db_default=0)
    address_concurrency = models.PositiveIntegerField("requests at once of an address", default=0, db_default=0)
    tags = models.JSONField(default=dict, db_default={}, blank=True)
    # By its name, so that a configuration file may say it too.
    default_provider = models.CharField(max_length=60, blank=True, default="", db_default="")
    unknown_price = models.CharField("where no price is known", max_length=20, default="allow", db_default="allow")
    cache = models.CharField(
        "cached answers",
        max_length=10,
        choices=[("alias", "as the alias says"), ("on", "on"), ("off", "off")],
        default="alias",
        db_default="alias",
    )
    cache_ttl = models.PositiveIntegerField("cached answers are good for (s)", default=0, db_default=0)
    may_explain = models.BooleanField("may ask for explanations", default=False, db_default=False)
    # Limits and budgets are counted under this id: its own where empty, else the key's that it took the place of.
    principal = models.CharField(max_length=40, blank=True, default="", db_default="", editable=False, db_index=True)
    # The key that took this one's place.
    successor = models.OneToOneField(
        "self", on_delete=models.SET_NULL, null=True, blank=True, editable=False, related_name="predecessor"
    )
    # From then on it is refused, and its running streams are ended.
    compromised_at = models.DateTimeField(null=True, blank=True, editable=False)
    # Somebody has reported it as leaked.
    reported_at = models.DateTimeField("reported as leaked", null=True, blank=True, editable=False)
    # Still digested under an old pepper then, it is refused; a use before that moves it to the new one.
    pepper_deadline = models.DateTimeField(null=True, blank=True, editable=False)

    objects: ClassVar[ClientKeyManager] = ClientKeyManager()

    history = audit.history(without=["digest", "pepper_id", "pepper_deadline"])

    class Meta:
        ordering = ["-created_at"]
        constraints = [models.UniqueConstraint(fields=["pepper_id", "digest"], name="clientkey_digest")]
        # The catalog reads all keys from elsewhere, once a minute, out of any number of others.
        indexes = [models.Index(fields=["id"], condition=models.Q(foreign=True), name="clientkey_foreign")]

    def __str__(self) -> str:
        return f"{self.name} ({self.id})"

    def clean(self) -> None:
        try:
            aliases.check_all(self.aliases)
        except ValueError as error:
            raise ValidationError({"aliases": str(error)}) from None
        settle(self, allowances.KEY)
        if faults := allowances.faults_of_kind(self.kind, self.aliases, settings_of(self, allowances.KEY)):
            raise ValidationError({name: f"{wrong[0].upper()}{wrong[1:]}." for name, wrong in faults.items()})

    @property
    def ends_at(self) -> datetime | None:
        """The moment from which on it is refused; None: it is not."""
        return min((moment for moment in (self.expires_at, self.pepper_deadline) if moment), default=None)


class Issuer(Row):
    """Who signs the tokens of an application's own users; such a token is worth as much as the key it leads to."""

    name = models.CharField(max_length=60, unique=True)
    issuer = models.CharField(max_length=issuers.MAX_CHARS)
    audience = models.CharField(max_length=issuers.MAX_CHARS)
    jwks_url = models.CharField("address of its keys", max_length=issuers.MAX_CHARS)
    key = models.ForeignKey(ClientKey, on_delete=models.PROTECT, null=True, blank=True, related_name="issuers")
    algorithms = models.JSONField(default=issuers.usual)
    leeway = models.PositiveSmallIntegerField("clocks may differ by (s)", default=30)
    end_user_claim = models.CharField("claim of the end user", max_length=200, default="sub")
    tag_claims = models.JSONField("tags from claims", default=dict, blank=True)
    profile_claim = models.CharField("claim that chooses the key", max_length=200, blank=True, default="")
    profiles = models.JSONField("keys by its value", default=dict, blank=True)
    enabled = models.BooleanField(default=True)

    history = audit.history()

    class Meta:
        ordering = ["name"]
        constraints = [models.UniqueConstraint(fields=["issuer", "audience"], name="issuer_audience")]

    def __str__(self) -> str:
        return self.name

    def clean(self) -> None:
        missing = {name for name in ("issuer", "audience", "jwks_url", "end_user_claim") if not getattr(self, name)}
        # That they are missing is said by the fields.
        wrong = {name: said for name, said in issuers.faults(vars(self)).items() if name not in missing}
        ids = set(self.profiles.values()) if "profiles" not in wrong else set()
        if unknown := ids - set(ClientKey.objects.filter(pk__in=ids).values_list("pk", flat=True)):
            wrong["profiles"] = f"There is no key with the id {min(unknown)}."
        if self.key is None and not self.profiles:
            wrong["key"] = "Choose the key whose scopes, limits and budget the tokens have."
        if wrong:
            raise ValidationError(wrong)
