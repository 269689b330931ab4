"""Columns that several of the configured models have."""

from django.db import models

from providers import allowances


def default_alerts() -> list[int]:
    return list(allowances.BUDGET["budget_alerts"].default)


class Limited(models.Model):
    """Requests and tokens a minute, and requests at once; 0 is no limit.

    These columns came after the first release, whose rows are written without them: hence the database's own defaults.
    """

    rpm = models.PositiveIntegerField("requests a minute", default=0, db_default=0)
    burst = models.PositiveIntegerField(default=0, db_default=0)
    tpm = models.PositiveIntegerField("tokens a minute", default=0, db_default=0)
    concurrency = models.PositiveIntegerField("requests at once", default=0, db_default=0)

    class Meta:
        abstract = True


class Budgeted(models.Model):
    """US dollars for a period, such as `5.00/month`, with commas between several."""

    budget = models.CharField(max_length=100, blank=True, default="", db_default="")
    budget_alerts = models.JSONField(
        "alerts at percent", default=default_alerts, db_default=default_alerts(), blank=True
    )

    class Meta:
        abstract = True


class Captured(models.Model):
    """Whether bodies are kept; docs/capture.md says how."""

    capture = models.FloatField("bodies kept of (%)", default=0.0, db_default=0.0)

    class Meta:
        abstract = True


class Cached(models.Model):
    """How an alias keeps answers; docs/caching.md says what each setting does."""

    cache = models.CharField(
        max_length=10,
        choices=[("off", "off"), ("on", "on"), ("opt_in", "for keys that say on")],
        default="off",
        db_default="off",
    )
    cache_ttl = models.PositiveIntegerField("answers are good for (s)", default=3600, db_default=3600)
    cache_stale = models.PositiveIntegerField("and stand in for a failure for (s)", default=0, db_default=0)
    cache_scope = models.CharField(
        "who shares them",
        max_length=10,
        choices=[("key", "nobody: each key has its own"), ("team", "the keys of a team"), ("shared", "all keys")],
        default="key",
        db_default="key",
    )
    cache_store = models.CharField(
        "kept in",
        max_length=10,
        choices=[("memory", "each process's memory"), ("shared", "Redis or the database too")],
        default="memory",
        db_default="memory",
    )
    cache_temperature = models.FloatField("highest temperature", default=1.0, db_default=1.0)
    cache_semantic = models.CharField("alias for embeddings", max_length=200, blank=True, default="", db_default="")
    cache_similarity = models.FloatField("least similarity", default=0.95, db_default=0.95)

    class Meta:
        abstract = True
