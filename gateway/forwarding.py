"""One attempt a route, in order, until an upstream answers; what went wrong decides whether the next may be tried."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial

import structlog

from gateway.admission import Grant
from gateway.answers import as_stream, check_answer, with_base64
from gateway.errors import GatewayError, UnknownModel, UpstreamError, UpstreamInvalid, UpstreamRefused, UpstreamTimeout
from gateway.receipts import Attempt, Receipt
from gateway.refusals import AUTH_FAILED, refusal
from gateway.replies import ChatRelay
from gateway.upstream import UpstreamReply
from ledger import counting
from ledger.usage import Usage
from providers import dialects, quirks
from providers.dialects.openai import BadModelName
from providers.targets import Target

log = structlog.get_logger("gateway")

MAX_ANSWER = 32 * 1024 * 1024
MAX_REFUSAL = 64 * 1024
EVENT_STREAM = "text/event-stream; charset=utf-8"
# How a stream may begin whose provider does not say that it is one.
EVENT_STARTS = (b"data:", b"event:", b"id:", b"retry:", b":", b"\n", b"\r", b"\xef\xbb\xbf")
RETRYABLE = frozenset({408, 429})
# Sent with every call; nothing of the client's head goes upstream but what stands in FORWARDED.
FIXED = [("content-type", "application/json"), ("accept-encoding", "identity"), ("user-agent", "llm-gateway")]


@dataclass(slots=True)
class Reply:
    """The first upstream that answered: a whole body, or a stream whose first bytes have come."""

    target: Target
    status: int
    content_type: str
    body: bytes = b""  # ready for the client: the whole answer, or what the stream's first bytes gave
    relay: ChatRelay | None = None  # None: `body` is all there is
    upstream: UpstreamReply | None = None
    chunks: AsyncIterator[bytes] | None = None


async def forward(grant: Grant) -> Reply:
    """Try the targets in order. Raises the last target's UpstreamError, or Overloaded where the pool is full."""
    for target in grant.targets[:-1]:
        try:
            return await _with_credentials(grant, target)
        except UpstreamError as exc:
            if not _may_go_on(exc, grant):
                raise
    return await _with_credentials(grant, grant.targets[-1])


def _may_go_on(exc: UpstreamError, grant: Grant) -> bool:
    """A request that may have been sent may have been billed: then only the provider's own refusal frees the next."""
    if not exc.sent:
        return True
    if isinstance(exc, UpstreamTimeout):
        return grant.alias.retry_after_timeout
    return isinstance(exc, UpstreamRefused) and (
        exc.upstream_status in RETRYABLE or exc.upstream_status >= 500 or exc.code == AUTH_FAILED
    )


async def _with_credentials(grant: Grant, target: Target) -> Reply:
    """A token that the provider no longer takes does not take the provider down while it has another."""
    others = [card for card in target.provider.credentials if card != target.credential]
    while True:
        try:
            return await _attempt(grant, target)
        except UpstreamRefused as exc:
            if exc.code != AUTH_FAILED or not others:
                raise
            target = Target(target.provider, target.model, others.pop(0))


async def _attempt(grant: Grant, target: Target) -> Reply:
    receipt = grant.receipt
    clock = receipt.process.clock
    attempt = Attempt(target, clock())
    receipt.attempts.append(attempt)
    try:
        reply = await _ask_upstream(grant, target, attempt)
    except GatewayError as exc:
        attempt.outcome = exc.code or exc.outcome
        attempt.sent = getattr(exc, "sent", False)
        if isinstance(exc, UpstreamRefused):
            attempt.status = exc.upstream_status
            log.warning(
                "upstream_refused", request_id=receipt.call.id, provider=target.provider.name, original=exc.original
            )
        raise
    except asyncio.CancelledError:
        attempt.outcome = "cancelled"
        raise
    else:
        attempt.outcome, attempt.status, attempt.sent = "ok", reply.status, True
        return reply
    finally:
        attempt.milliseconds = round((clock() - attempt.started) * 1000)


async def _ask_upstream(grant: Grant, target: Target, attempt: Attempt) -> Reply:
    ask, receipt, provider = grant.ask, grant.receipt, target.provider
    dialect = dialects.get(provider.dialect)
    body = ask.body(
        dialect.body_model(target),
        include_usage=dialect.asks_for_usage(provider),
        edit=partial(quirks.apply, provider.quirks),
    )
    headers = [*FIXED, *dialect.headers(target), *provider.quirks.headers.items()]
    timeouts = provider.timeouts
    receipt.total_deadline = attempt.started + timeouts.total
    try:
        url = dialect.url(target, ask.path)
    except BadModelName:
        raise UnknownModel(f"The model `{ask.model}` does not exist or you do not have access to it.") from None
    with receipt.within(timeouts.first_byte, _no_first_byte):
        upstream = await receipt.process.upstream.send(url, headers, body, timeouts, sending=attempt)
        attempt.sent = True
        try:
            return await _read(grant, target, upstream)
        except BaseException:
            await asyncio.shield(upstream.aclose())
            raise


def _no_first_byte() -> UpstreamTimeout:
    return UpstreamTimeout("The provider did not answer in time; it may have done the work all the same.", sent=True)


def _silent() -> UpstreamTimeout:
    return UpstreamTimeout("The provider stopped sending before its answer was complete.", sent=True)


async def _read(grant: Grant, target: Target, upstream: UpstreamReply) -> Reply:
    receipt, ask = grant.receipt, grant.ask
    receipt.upstream_request_id = upstream.headers.get("x-request-id", "")[:200]
    if upstream.status != 200:
        body = await _beginning(upstream)
        raise refusal(upstream.status, dict(upstream.headers.items()), body, secrets=_secrets(target))
    content_type = upstream.headers.get("content-type", "")
    if ask.stream and "json" not in content_type and "html" not in content_type:
        chunks = upstream.chunks()
        first = await anext(chunks, b"")
        _first_byte(receipt)
        if "event-stream" in content_type or first.startswith(EVENT_STARTS):
            return _stream(grant, target, first, upstream, chunks)
        body = await _whole(receipt, target, chunks, first)
    else:
        _first_byte(receipt)
        body = await _whole(receipt, target, upstream.chunks())
    await upstream.aclose()
    answer = check_answer(upstream.status, content_type, body, ask.endpoint, secrets=_secrets(target))
    if answer.usage is not None:
        receipt.usage, receipt.usage_source = answer.usage, "provider"
    else:
        tokens_in = counting.prompt_tokens(ask.fields)
        receipt.usage, receipt.usage_source = Usage(tokens_in, counting.answer_tokens(answer.body)), "estimated"
    if ask.stream:
        stream = as_stream(answer.body, chat=ask.endpoint == "chat.completions", wants_usage=ask.wants_usage)
        return Reply(target, 200, EVENT_STREAM, stream)
    whole = with_base64(answer.body) if ask.endpoint == "embeddings" and ask.wants_base64 else answer.body
    return Reply(target, upstream.status, "application/json", whole)


async def _whole(receipt: Receipt, target: Target, chunks: AsyncIterator[bytes], first: bytes = b"") -> bytes:
    """The rest of a body, with `first` before it; silence within it counts as in a stream, memory as for a request."""
    parts, size = [first], len(first)
    receipt.call.take(size)
    with receipt.within(target.provider.timeouts.gap, _silent):
        async for data in chunks:
            receipt.heard = True
            receipt.call.take(len(data))
            parts.append(data)
            size += len(data)
            if size > MAX_ANSWER:
                raise UpstreamInvalid(f"The provider's answer is larger than {MAX_ANSWER} bytes.", sent=True)
    return b"".join(parts)


def _stream(grant: Grant, target: Target, first: bytes, upstream: UpstreamReply, chunks: AsyncIterator[bytes]) -> Reply:
    """A stream whose head can still be a refusal: an error in its first event is the answer's status, and no event."""
    ask = grant.ask
    relay = ChatRelay(
        chat=ask.endpoint == "chat.completions",
        wants_usage=ask.wants_usage,
        choices=ask.choices,
        model=ask.model,
        secrets=tuple(_secrets(target)),
    )
    out = relay.feed(first)
    if relay.failed is not None and relay.events_relayed <= 1:
        raise relay.failed
    return Reply(target, 200, EVENT_STREAM, out, relay, upstream, chunks)


async def _beginning(upstream: UpstreamReply) -> bytes:
    """As much of a refusal as is worth reading; one that breaks off still has a status."""
    body = b""
    try:
        async for data in upstream.chunks():
            body += data
            if len(body) > MAX_REFUSAL:
                break
    except UpstreamError:
        pass
    await upstream.aclose()
    return body[:MAX_REFUSAL]


def _first_byte(receipt: Receipt) -> None:
    if receipt.ttft is None:
        receipt.ttft = receipt.process.clock() - receipt.call.started


def _secrets(target: Target) -> list[str]:
    return [card.secret.reveal() for card in target.provider.credentials]
