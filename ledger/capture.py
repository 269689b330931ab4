"""Payloads that are kept for a while: redacted, sealed, and gone when their days are over."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from time import sleep

from django.conf import settings
from django.db import transaction
from django.utils import timezone

from ledger.journal import PAUSE
from ledger.models import CapturedPayload, PayloadView
from ledger.payloads import Taken, readable
from ledger.redaction import Redactor
from ledger.storable import LENGTHS
from providers import vault
from providers.ids import uuid7

BATCH = 200


def store(taken: Sequence[Taken], redactor: Redactor) -> None:
    """Rows of them; one whose id is there already is the same. Raises django.db.Error, VaultError."""
    rows = [_row(one, redactor) for one in taken]
    CapturedPayload.objects.bulk_create(rows, ignore_conflicts=True)


def _row(taken: Taken, redactor: Redactor) -> CapturedPayload:
    request, found = redactor.text(readable(taken.request, stream=False))
    response, more = redactor.text(readable(taken.response, stream=taken.stream))
    at = datetime.fromtimestamp(taken.at, UTC)
    row = CapturedPayload(
        id=taken.id[: LENGTHS["id"]],
        at=at,
        expires_at=at + timedelta(days=settings.GATEWAY_CAPTURE_DAYS),
        key_id=_fit(taken.key, "key"),
        key_name=_fit(taken.key_name, "key_name"),
        alias=_fit(taken.alias, "alias"),
        model=_fit(redactor.text(taken.model)[0], "model"),
        outcome=_fit(taken.outcome, "outcome"),
        request_bytes=taken.request_bytes,
        response_bytes=taken.response_bytes,
        truncated=len(taken.request) < taken.request_bytes or len(taken.response) < taken.response_bytes,
        redactions=found + more,
    )
    row.request, row.response = _seal(row, request), _seal(row, response)
    return row


def _seal(row: CapturedPayload, text: str) -> str:
    """PostgreSQL's text takes no NUL, but sealed it is base64."""
    if not text:
        return ""
    return vault.seal(settings.GATEWAY_ENCRYPTION_KEYS, text, row_id=row.id, origin=row.seal_origin)


def _fit(text: str, name: str) -> str:
    return text.replace("\x00", "")[: LENGTHS[name]]


def opened(row: CapturedPayload, *, viewer: str, address: str) -> tuple[str, str]:
    """The request and the response for `viewer`, whose look is on record before. Raises VaultError."""
    PayloadView.objects.create(id=uuid7(), payload_id=row.id, viewer=viewer[:150], address=address[:60])
    return row.unseal(row.request), row.unseal(row.response)


def prune(now: datetime | None = None, *, every: bool = False) -> Iterator[int]:
    """Delete what has expired, or all of it; how many in each batch. Who looked at it stays on record."""
    rows = CapturedPayload.objects.all()
    if not every:
        rows = rows.filter(expires_at__lte=now or timezone.now())
    while ids := list(rows.order_by().values_list("pk", flat=True)[:BATCH]):
        with transaction.atomic():
            CapturedPayload.objects.filter(pk__in=ids).delete()
        yield len(ids)
        sleep(PAUSE)
