"""What happened: one row a request, written by the journal's drain and by nobody else; and what it all adds up to."""

from django.conf import settings
from django.core.exceptions import ValidationError
from django.db import models
from django.utils import timezone

from ledger.fields import MoneyField
from ledger.storable import LENGTHS
from providers import audit, vault
from providers.fields import SealedField
from providers.models import Row

# What is added later has a value in the database too: a process of the version before writes rows without it.
NOTHING = models.Value([], models.JSONField())


class UsageRecord(models.Model):
    """One admitted request. It holds ids and names, no foreign keys: it outlives the key, alias and provider."""

    id = models.CharField("request id", primary_key=True, max_length=LENGTHS["id"])
    started_at = models.DateTimeField(db_index=True)
    key_id = models.CharField("key id", max_length=LENGTHS["key"], blank=True, default="")
    key_name = models.CharField("key", max_length=LENGTHS["key_name"], blank=True, default="")
    endpoint = models.CharField(max_length=LENGTHS["endpoint"], blank=True, default="")
    alias = models.CharField(max_length=LENGTHS["alias"], blank=True, default="")
    model = models.CharField("model asked for", max_length=LENGTHS["model"], blank=True, default="")
    provider = models.CharField(max_length=LENGTHS["provider"], blank=True, default="")
    upstream_model = models.CharField(max_length=LENGTHS["upstream_model"], blank=True, default="")
    stream = models.BooleanField(default=False)
    outcome = models.CharField(max_length=LENGTHS["outcome"], blank=True, default="")
    status = models.PositiveSmallIntegerField(default=0)  # what the client was given; 0: nothing
    error_code = models.CharField(max_length=LENGTHS["error_code"], blank=True, default="")
    attempts = models.JSONField(default=list, blank=True)
    sent = models.BooleanField("may have reached a provider", default=False)
    tokens_in = models.PositiveIntegerField("input tokens", default=0)
    tokens_out = models.PositiveIntegerField("output tokens", default=0)
    tokens_cached = models.PositiveIntegerField("cached input tokens", default=0)
    tokens_reasoning = models.PositiveIntegerField("reasoning tokens", default=0)
    usage_source = models.CharField(max_length=LENGTHS["usage_source"], default="none")
    bytes_out = models.PositiveBigIntegerField("bytes to the client", default=0)
    ttft_ms = models.PositiveIntegerField("first upstream byte (ms)", null=True, blank=True)
    duration_ms = models.PositiveIntegerField("duration (ms)", default=0)
    upstream_request_id = models.CharField(
        "provider's request id", max_length=LENGTHS["upstream_request_id"], blank=True, default=""
    )
    team_id = models.CharField("team id", max_length=LENGTHS["team"], blank=True, default="", db_default="")
    team_name = models.CharField("team", max_length=LENGTHS["team_name"], blank=True, default="", db_default="")
    end_user = models.CharField(max_length=LENGTHS["end_user"], blank=True, default="", db_default="")
    tokens_audio_in = models.PositiveIntegerField("audio input tokens", default=0, db_default=0)
    tokens_audio_out = models.PositiveIntegerField("audio output tokens", default=0, db_default=0)
    tokens_cache_write = models.PositiveIntegerField("input tokens written to a cache", default=0, db_default=0)
    images = models.PositiveIntegerField(default=0, db_default=0)
    media_ms = models.PositiveBigIntegerField("audio or video (ms)", default=0, db_default=0)
    cost = MoneyField("cost (USD)", null=True, blank=True)  # null: unknown
    price_source = models.CharField(max_length=LENGTHS["price_source"], blank=True, default="", db_default="")
    reserved = MoneyField("reserved (USD)", null=True, blank=True)
    credits = MoneyField("the provider's credits", null=True, blank=True)
    cache = models.CharField(max_length=LENGTHS["cache"], blank=True, default="", db_default="")
    saved = MoneyField("saved by the cache (USD)", null=True, blank=True)
    accounts = models.JSONField("budget accounts", default=list, blank=True, db_default=NOTHING)
    flagged = models.BooleanField("needs a look", default=False)  # lost, or timed out after it was sent

    class Meta:
        ordering = ["-started_at", "-id"]
        indexes = [
            models.Index(fields=["key_id", "started_at"], name="usage_key"),
            models.Index(fields=["alias", "started_at"], name="usage_alias"),
            models.Index(fields=["outcome", "started_at"], name="usage_outcome"),
            models.Index(fields=["started_at"], name="usage_flagged", condition=models.Q(flagged=True)),
        ]

    def __str__(self) -> str:
        return self.id


class PriceRow(Row):
    """An operator's own price, from a day on. It wins over the built-in table wherever it holds."""

    alias = models.CharField(max_length=200, blank=True, default="", help_text="Only through this alias.")
    provider = models.CharField(max_length=60, blank=True, default="", help_text="A provider's name; empty: every one.")
    model = models.CharField(
        "upstream model", max_length=300, default="*", help_text="The model's name there, or a pattern with a last *."
    )
    starts_at = models.DateTimeField("from", default=timezone.now)
    ends_at = models.DateTimeField("until", null=True, blank=True)
    input = models.DecimalField("input, per million", max_digits=14, decimal_places=8, null=True, blank=True)
    output = models.DecimalField("output, per million", max_digits=14, decimal_places=8, null=True, blank=True)
    cached = models.DecimalField("cached input, per million", max_digits=14, decimal_places=8, null=True, blank=True)
    cache_write = models.DecimalField(
        "input written to a cache, per million", max_digits=14, decimal_places=8, null=True, blank=True
    )
    reasoning = models.DecimalField("reasoning, per million", max_digits=14, decimal_places=8, null=True, blank=True)
    audio_in = models.DecimalField("audio input, per million", max_digits=14, decimal_places=8, null=True, blank=True)
    audio_out = models.DecimalField("audio output, per million", max_digits=14, decimal_places=8, null=True, blank=True)
    request = models.DecimalField("per request", max_digits=14, decimal_places=8, null=True, blank=True)
    image = models.DecimalField("per image", max_digits=14, decimal_places=8, null=True, blank=True)
    second = models.DecimalField("per second", max_digits=14, decimal_places=8, null=True, blank=True)

    history = audit.history()

    PER_TOKEN = ("input", "output", "cached", "cache_write", "reasoning", "audio_in", "audio_out")
    BESIDE = ("request", "image", "second")
    RATES = (*PER_TOKEN, *BESIDE)

    class Meta:
        ordering = ["provider", "model", "-starts_at"]
        verbose_name = "price"

    def __str__(self) -> str:
        return f"{self.provider or '*'}:{self.model}"

    def clean(self) -> None:
        wrong: dict[str, str] = {}
        rates = {name: getattr(self, name) for name in self.RATES}
        for name, rate in rates.items():
            if rate is not None and rate < 0:
                wrong[name] = "A price is not negative."
        if all(rate is None for rate in rates.values()):
            wrong["input"] = "A price has at least one rate; 0 is one."
        if "*" in self.model[:-1]:
            wrong["model"] = "A pattern has one *, at its end."
        if self.ends_at is not None and self.starts_at is not None and self.ends_at <= self.starts_at:
            wrong["ends_at"] = "It ends before it begins."
        if wrong:
            raise ValidationError(wrong)


class BudgetAccount(models.Model):
    """What is spent of one budget in one period; `reserved` is out on leases. It is moved by single statements only.

    Its id is made of the rest, so that all processes know it without asking.
    """

    id = models.CharField(primary_key=True, max_length=32, editable=False)
    budget = models.CharField(max_length=200, db_index=True)
    scope = models.CharField(max_length=10)
    subject = models.CharField("end user", max_length=200, blank=True, default="")
    period = models.CharField(max_length=10)
    starts_on = models.DateField(null=True, blank=True)  # in UTC; null: it has no end
    amount = MoneyField("limit (USD)")
    spent = MoneyField("spent (USD)", default=0)
    reserved = MoneyField("on lease (USD)", default=0)
    granted = MoneyField(default=0, editable=False)  # by the last statement: both databases can give it back
    alert_at = models.JSONField(default=list, blank=True)  # percent

    class Meta:
        ordering = ["-starts_on", "budget", "subject"]

    def __str__(self) -> str:
        return f"{self.budget} {self.subject} {self.starts_on or ''}".strip()


class LeaseHolder(models.Model):
    """A process that holds leases, and when it last said that it lives, by the database's clock."""

    id = models.CharField(primary_key=True, max_length=40)
    seen_at = models.DateTimeField(db_index=True)

    def __str__(self) -> str:
        return self.id


class Lease(models.Model):
    """What one process has out of one account: unspent, under way, or spent and not yet in a row."""

    id = models.CharField(primary_key=True, max_length=40)
    account_id = models.CharField(max_length=32, db_index=True)
    holder_id = models.CharField(max_length=40, db_index=True)
    amount = MoneyField()

    def __str__(self) -> str:
        return self.id


class DailyRollup(models.Model):
    """One day's requests of one combination, by UTC; written with the rows that it adds up."""

    id = models.CharField(primary_key=True, max_length=32, editable=False)
    day = models.DateField(db_index=True)
    key_id = models.CharField("key id", max_length=LENGTHS["key"], blank=True, default="")
    key_name = models.CharField("key", max_length=LENGTHS["key_name"], blank=True, default="")
    team_id = models.CharField("team id", max_length=LENGTHS["team"], blank=True, default="")
    team_name = models.CharField("team", max_length=LENGTHS["team_name"], blank=True, default="")
    end_user = models.CharField(max_length=LENGTHS["end_user"], blank=True, default="")
    alias = models.CharField(max_length=LENGTHS["alias"], blank=True, default="")
    provider = models.CharField(max_length=LENGTHS["provider"], blank=True, default="")
    model = models.CharField("upstream model", max_length=LENGTHS["upstream_model"], blank=True, default="")
    # Not checked to be positive: PostgreSQL checks what an upsert proposes, and a correction takes something away.
    requests = models.BigIntegerField(default=0)
    errors = models.BigIntegerField(default=0, db_default=0)
    unpriced = models.BigIntegerField("of unknown cost", default=0)
    tokens_in = models.BigIntegerField("input tokens", default=0)
    tokens_out = models.BigIntegerField("output tokens", default=0)
    tokens_cached = models.BigIntegerField("cached input tokens", default=0)
    tokens_reasoning = models.BigIntegerField("reasoning tokens", default=0)
    cost = MoneyField("cost (USD)", default=0)
    saved = MoneyField("saved by the cache (USD)", default=0, db_default=0)

    class Meta:
        ordering = ["-day", "-cost"]
        indexes = [models.Index(fields=["key_id", "day"], name="rollup_key")]
        verbose_name = "daily total"

    def __str__(self) -> str:
        return f"{self.day} {self.key_name} {self.alias}"


class Alert(models.Model):
    """A threshold that was passed, once whatever the number of processes; told to the operator by one of them."""

    id = models.CharField(primary_key=True, max_length=80, editable=False)
    kind = models.CharField(max_length=20)  # budget, velocity
    text = models.CharField(max_length=500)
    facts = models.JSONField(default=dict, blank=True)
    created_at = models.DateTimeField(default=timezone.now, db_index=True)
    claimed_at = models.DateTimeField(null=True, blank=True)
    sent_at = models.DateTimeField(null=True, blank=True)
    tries = models.PositiveSmallIntegerField(default=0)

    class Meta:
        ordering = ["-created_at"]

    def __str__(self) -> str:
        return self.text


class CapturedPayload(models.Model):
    """What one request asked and was answered: redacted, sealed, and gone at `expires_at`."""

    texts = ("", "")  # the request and the response, once opened

    id = models.CharField("request id", primary_key=True, max_length=LENGTHS["id"])
    at = models.DateTimeField(db_index=True)
    expires_at = models.DateTimeField(db_index=True)
    key_id = models.CharField("key id", max_length=LENGTHS["key"], blank=True, default="")
    key_name = models.CharField("key", max_length=LENGTHS["key_name"], blank=True, default="")
    alias = models.CharField(max_length=LENGTHS["alias"], blank=True, default="")
    model = models.CharField("model asked for", max_length=LENGTHS["model"], blank=True, default="")
    outcome = models.CharField(max_length=LENGTHS["outcome"], blank=True, default="")
    request = SealedField(blank=True, default="")
    response = SealedField(blank=True, default="")
    request_bytes = models.PositiveBigIntegerField(default=0)  # of the whole body, whatever was kept of it
    response_bytes = models.PositiveBigIntegerField(default=0)
    truncated = models.BooleanField(default=False)
    redactions = models.PositiveIntegerField(default=0)

    class Meta:
        ordering = ["-at", "-id"]
        permissions = [("open_capturedpayload", "Can read what captured payloads hold")]

    def __str__(self) -> str:
        return self.id

    @property
    def seal_origin(self) -> str:
        """Sealed for its row and for no provider; see providers/reseal.py."""
        return "captured-payload"

    def unseal(self, value: str) -> str:
        """The text of one of its sealed columns; raises VaultError."""
        if not value:
            return ""
        keys = settings.GATEWAY_ENCRYPTION_KEYS
        return vault.unseal(keys, value, row_id=self.id, origin=self.seal_origin).reveal()


class PayloadView(models.Model):
    """Who has looked at which captured payload; it outlives the payload, and nobody can change it."""

    id = models.CharField(primary_key=True, max_length=40, editable=False)
    at = models.DateTimeField(default=timezone.now, db_index=True)
    payload_id = models.CharField("request id", max_length=LENGTHS["id"], db_index=True)
    viewer = models.CharField(max_length=150)
    address = models.CharField(max_length=60, blank=True, default="")

    class Meta:
        ordering = ["-at"]

    def __str__(self) -> str:
        return f"{self.viewer} {self.payload_id}"
