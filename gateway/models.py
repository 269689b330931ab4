"""What the processes of a gateway share to limit together: buckets, places, and each other's pulse.

These rows are read and written by the statements in gateway/limits/store.py only. Times are seconds of the clock that
is named beside them: PostgreSQL's own, or the machine's since its start, which no correction of the wall clock moves.
"""

from django.db import models

from providers.fields import SealedField

NAME = 200  # characters of a bucket's name


class LimitBucket(models.Model):
    id = models.CharField(primary_key=True, max_length=NAME)
    tat = models.FloatField()
    clock = models.CharField(max_length=40)
    granted = models.FloatField()  # units of the last grant; 0: it was refused

    class Meta:
        indexes = [models.Index(fields=["tat"], name="gateway_bucket_tat")]

    def __str__(self) -> str:
        return self.id


class KeptQuestion(models.Model):
    """What a question with a kept answer means, as 32-bit floats, little-endian (gateway/caching/meanings.py)."""

    id = models.CharField(primary_key=True, max_length=64)
    place = models.CharField(max_length=64)
    answer = models.CharField(max_length=64)
    vector = models.BinaryField()
    at = models.FloatField()  # unix seconds
    expires_at = models.FloatField(db_index=True)

    class Meta:
        indexes = [models.Index(fields=["place", "at"], name="gateway_question_place")]

    def __str__(self) -> str:
        return self.id


class CachedAnswer(models.Model):
    """An answer that all processes may give again (gateway/caching/): sealed bytes, and when they are over."""

    id = models.CharField(primary_key=True, max_length=64)
    value = models.BinaryField()
    size = models.PositiveIntegerField()
    expires_at = models.FloatField()  # unix seconds

    class Meta:
        # Both in one index, so that their sum and their order are read without the answers.
        indexes = [models.Index(fields=["expires_at", "size"], name="gateway_answer_expires")]

    def __str__(self) -> str:
        return self.id


class KeyedRequest(models.Model):
    """A request that came with an Idempotency-Key (gateway/idempotency.py), and its answer once there is one."""

    id = models.CharField(primary_key=True, max_length=40)  # a digest of whose key it is, and of the key
    fingerprint = models.CharField(max_length=40)  # of what was asked
    request_id = models.CharField(max_length=60)
    # Of an upload, as much of its body as had come when it was answered: how many bytes, and what they held.
    body_bytes = models.PositiveBigIntegerField(default=0, db_default=0)
    body_fingerprint = models.CharField(max_length=40, blank=True, default="", db_default="")
    done = models.BooleanField(default=False)
    alive_until = models.DateTimeField()  # moved on by the process that works on it; after that it is anyone's
    expires_at = models.DateTimeField(db_index=True)
    status = models.PositiveSmallIntegerField(default=0)  # 0: the answer was too large to be kept
    headers = models.JSONField(default=list)
    answer = SealedField(blank=True, default="")  # base64
    # It names no provider: sealed for its own row.
    seal_origin = "idempotency"

    def __str__(self) -> str:
        return self.id


class GatewayProcess(models.Model):
    """A process that serves. One whose pulse is older than ten seconds is dead, and has lost its places."""

    id = models.CharField(primary_key=True, max_length=40)
    seen = models.FloatField()
    clock = models.CharField(max_length=40)
    mode = models.CharField(max_length=10)  # memory, sql, redis: where it counts
    # Of the encryption keys that it has, with commas between: what is sealed with another it could not open.
    key_ids = models.CharField(max_length=1000, blank=True, default="", db_default="")

    def __str__(self) -> str:
        return self.id


class LimitPlace(models.Model):
    """How many of a bucket's places a process holds."""

    id = models.CharField(primary_key=True, max_length=NAME + 50)
    bucket = models.CharField(max_length=NAME, db_index=True)
    process = models.CharField(max_length=40, db_index=True)
    held = models.IntegerField()

    def __str__(self) -> str:
        return self.id


class KnownId(models.Model):
    """An id that a provider gave to something of a client's: who has it, under which credential, and whose it is."""

    id = models.CharField(primary_key=True, max_length=NAME)
    provider = models.CharField(max_length=40)
    credential = models.CharField(max_length=40, blank=True, default="")
    owner = models.CharField(max_length=40)  # a client key's principal
    used_on = models.DateField(db_index=True)

    def __str__(self) -> str:
        return self.id
