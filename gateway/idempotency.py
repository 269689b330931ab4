"""Idempotency-Key: the same key and request get the same answer for 24 hours, whichever process is asked.

https://datatracker.ietf.org/doc/html/draft-ietf-httpapi-idempotency-key-header. A row in SQL is taken before anything
is sent and holds the answer, sealed, after it; nothing else costs a query. A request with a key goes on when its client
leaves, so that the answer is there when the client asks again. What ends with an error leaves no row, and may be tried
again; so may what a process was at work on that has died.

An upload is compared as it comes, with what of the first one had come when that was answered; none is held for it.
"""

import base64
from collections.abc import Awaitable, Callable, Iterable
from datetime import timedelta
from typing import Any, NamedTuple

import structlog
from django.conf import settings
from django.db import IntegrityError, transaction
from django.db.models import Q
from django.db.models.functions import Now
from django.http import HttpResponse

from gateway.bodies import Incoming
from gateway.errors import BadRequest, Conflict, GatewayError, Overloaded
from gateway.models import KeyedRequest
from gateway.parsing.heads import KEYED, digest
from gateway.process import Process
from gateway.receipts import Call
from providers import vault
from providers.allowances import PUBLISHABLE

log = structlog.get_logger("gateway")

MAX_CHARS = 255
KEPT_FOR = timedelta(hours=24)
ALIVE_FOR = timedelta(seconds=20)
BEAT = 5.0  # seconds between two signs of life
MAX_BYTES = 1024 * 1024  # of an answer that is kept
PRUNED = 500
PRUNE_EVERY = 600.0  # seconds
KEPT_HEADERS = frozenset({b"content-type", b"x-gateway-provider"})
# What is made here, and costs nothing to make again.
OWN_PATHS = frozenset({"/v1/client_tokens", "/v1/keys/report"})
Send = Callable[[dict[str, Any]], Awaitable[None]]


class Stored(NamedTuple):
    """What was answered. `status` 0: more than is kept."""

    status: int
    headers: list[list[str]]
    body: bytes
    request_id: str
    upload: tuple[int, str] = (0, "")  # of the request: bytes of its body, and their fingerprint; "": it was none


def key_of(call: Call, method: str, path: str) -> str:
    """The key that the call brings, "" for none and for what has no use for one. Raises BadRequest."""
    key = next((value for name, value in call.forwarded if name == KEYED), "")
    if not key or method != "POST" or path in OWN_PATHS or call.process.budgets is None or call.key is None:
        return ""
    if len(key) > MAX_CHARS:
        raise BadRequest(f"`Idempotency-Key` has at most {MAX_CHARS} characters.", param=KEYED)
    if call.key.kind == PUBLISHABLE:
        raise BadRequest("`Idempotency-Key` may not be sent with a publishable key.", param=KEYED)
    return key


async def begin(call: Call, key: str, asked: Iterable[bytes], incoming: Incoming | None) -> "HttpResponse | Recording":
    """The answer that there is, or leave to make one. Raises BadRequest and Conflict, and what reading raises."""
    assert call.key is not None
    assert call.process.sql is not None
    row_id = digest(part.encode() for part in (call.key.principal, call.end_user, key))
    fingerprint = digest(asked)
    found: Stored | GatewayError | None = await call.process.sql(take, row_id, fingerprint, call.id)
    if isinstance(found, GatewayError):
        raise found
    if found is None:
        recording = Recording(call, row_id, incoming)
        call.process.keyed.add(row_id)
        call.on_leave, call.recorded = recording.leave, True
        return recording
    if incoming is not None and found.upload[1] and not await _is_same(incoming, *found.upload):
        raise _mismatch()
    if not found.status:
        raise Conflict(
            f"The answer to this Idempotency-Key was too large to be kept; it was that of request {found.request_id}.",
            headers={"x-should-retry": "false"},
        )
    return replay(found)


async def _is_same(incoming: Incoming, size: int, fingerprint: str) -> bool:
    """Whether the upload begins with so many bytes that hold the same. It is read to there, and not kept."""
    seen, incoming.fingerprint = incoming.fingerprint, None
    assert seen is not None
    while not incoming.ended and seen.size < size:
        data = await incoming.read()
        seen.feed(data[: size - seen.size])
    return seen.size == size and seen.value() == fingerprint


def _mismatch() -> BadRequest:
    return BadRequest(
        "This Idempotency-Key was used for another request: send a new key with each new request.",
        param=KEYED,
        code="idempotency_mismatch",
    )


def replay(found: Stored) -> HttpResponse:
    response = HttpResponse(found.body, status=found.status)
    for name, value in found.headers:
        response.headers[name] = value
    response.headers["idempotent-replayed"] = "true"
    response.headers["x-gateway-original-request"] = found.request_id
    return response


class Recording:
    """Stands between an answer and its client, and keeps what goes through."""

    def __init__(self, call: Call, row_id: str, incoming: Incoming | None) -> None:
        self.call, self.row_id = call, row_id
        self.seen = incoming.fingerprint if incoming is not None else None
        self.status = 0
        self.headers: list[list[str]] = []
        self.parts: list[bytes] = []
        self.size = 0
        self.left = False  # the client is gone: what comes is for who asks again
        self.over = False

    def leave(self) -> bool:
        """The client leaves; the request goes on."""
        self.left = True
        return True

    def through(self, send: Send) -> Send:
        async def sending(message: dict[str, Any]) -> None:
            self._note(message)
            if message["type"] == "http.response.body" and not message.get("more_body"):
                await self._end()
            if not self.left:
                await send(message)

        return sending

    async def close(self) -> None:
        """However the call has ended: what is not kept may be asked for again."""
        self.call.process.keyed.discard(self.row_id)
        if not self.over:
            await self._run(free, self.row_id, self.call.id)

    def _note(self, message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = [[n.decode(), v.decode("latin-1")] for n, v in message["headers"] if n in KEPT_HEADERS]
        elif self.size <= MAX_BYTES and (part := message.get("body")):
            self.size += len(part)
            if self.size <= MAX_BYTES and self._has_room(len(part)):
                self.parts.append(bytes(part))
            else:
                self.size = MAX_BYTES + 1
                self.parts.clear()

    def _has_room(self, size: int) -> bool:
        """Whether the process may hold so many bytes more; it has them back when the call ends."""
        try:
            self.call.take(size)
        except Overloaded:
            return False
        return True

    async def _end(self) -> None:
        """Before the client has the last of it: who has an answer gets the same one, who has an error may try anew."""
        if not 200 <= self.status < 300 or self.call.error is not None:
            self.over = await self._run(free, self.row_id, self.call.id)
        else:
            status = self.status if self.size <= MAX_BYTES else 0
            upload = (self.seen.size, self.seen.value()) if self.seen is not None else (0, "")
            stored = Stored(status, self.headers, b"".join(self.parts), self.call.id, upload)
            self.over = await self._run(keep, self.row_id, stored)

    async def _run(self, job: Callable[..., None], *args: object) -> bool:
        assert self.call.process.sql is not None
        try:
            await self.call.process.sql(job, *args)
        except Exception:
            log.exception("idempotency_failed", request_id=self.call.id)
            return False
        return True


# --- on the SQL thread -----------------------------------------------------------------------------------------------


def take(row_id: str, fingerprint: str, request_id: str) -> Stored | GatewayError | None:
    """Begin with that key, or the answer of who has begun before, or why there is none."""
    fresh = {
        "fingerprint": fingerprint,
        "request_id": request_id,
        "done": False,
        "alive_until": Now() + ALIVE_FOR,
        "expires_at": Now() + KEPT_FOR,
    }
    over = Q(expires_at__lt=Now()) | Q(done=False, alive_until__lt=Now())
    if KeyedRequest.objects.filter(over, pk=row_id).update(**fresh, answer="", status=0):
        return None
    try:
        with transaction.atomic():
            KeyedRequest.objects.create(pk=row_id, **fresh)
        return None
    except IntegrityError:
        row = KeyedRequest.objects.filter(pk=row_id).first()
    if row is None:
        return Conflict("The request with this Idempotency-Key has just ended.", headers={"retry-after-ms": "100"})
    if row.fingerprint != fingerprint:
        return _mismatch()
    if not row.done:
        return Conflict(
            f"The request with this Idempotency-Key is still under way, as {row.request_id}.",
            headers={"retry-after": "1", "retry-after-ms": "500"},
        )
    try:
        upload = row.body_bytes, row.body_fingerprint
        return Stored(row.status, row.headers, opened(row), row.request_id, upload)
    except (vault.UnknownKeyId, vault.DoesNotDecrypt):
        return Conflict(
            f"The answer to this Idempotency-Key cannot be opened any more; it was that of request {row.request_id}.",
            headers={"x-should-retry": "false"},
        )
    except vault.VaultError:
        return Overloaded("The answer to this Idempotency-Key cannot be opened now.", retry_after=5)


def opened(row: KeyedRequest) -> bytes:
    """Raises VaultError where the answer was sealed with a key that is gone. It may ask KMS, which blocks."""
    if not row.answer:
        return b""
    keys = settings.GATEWAY_ENCRYPTION_KEYS
    text = vault.unseal(keys, row.answer, row_id=row.id, origin=KeyedRequest.seal_origin)
    return base64.b64decode(text.reveal())


def keep(row_id: str, stored: Stored) -> None:
    sealed = ""
    if stored.status and stored.body:
        text = base64.b64encode(stored.body).decode()
        sealed = vault.seal(settings.GATEWAY_ENCRYPTION_KEYS, text, row_id=row_id, origin=KeyedRequest.seal_origin)
    mine = KeyedRequest.objects.filter(pk=row_id, request_id=stored.request_id)
    size, fingerprint = stored.upload
    mine.update(
        done=True,
        status=stored.status,
        headers=stored.headers,
        answer=sealed,
        body_bytes=size,
        body_fingerprint=fingerprint,
    )


def free(row_id: str, request_id: str) -> None:
    KeyedRequest.objects.filter(pk=row_id, request_id=request_id, done=False).delete()


def extend(row_ids: list[str]) -> None:
    """What this process works on is alive."""
    KeyedRequest.objects.filter(pk__in=row_ids, done=False).update(alive_until=Now() + ALIVE_FOR)


def prune() -> None:
    old = KeyedRequest.objects.filter(expires_at__lt=Now()).values_list("pk", flat=True)[:PRUNED]
    KeyedRequest.objects.filter(pk__in=list(old)).delete()


async def tend(process: Process) -> None:
    """Each few seconds."""
    assert process.sql is not None
    now = process.clock()
    if now - process.keyed_pruned_at > PRUNE_EVERY:
        process.keyed_pruned_at = now
        await process.sql(prune)
    if process.keyed:
        await process.sql(extend, list(process.keyed))
