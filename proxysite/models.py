"""What the building itself counts: attempts that are limited, where there is no Redis."""

from django.db import models


class Counter(models.Model):
    """How often something was tried in one window of time; unix seconds. Written by proxysite/counters.py only."""

    key = models.CharField(primary_key=True, max_length=255)
    value = models.BigIntegerField()
    expires_at = models.FloatField(db_index=True)

    def __str__(self) -> str:
        return self.key
