"""What happened: one row a request, written by the journal's drain and by nobody else."""

from django.db import models

from ledger.storable import LENGTHS


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
