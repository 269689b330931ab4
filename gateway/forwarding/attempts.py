"""One attempt a route, in order, until an upstream answers; what went wrong decides whether the next may be tried."""

import asyncio
from functools import partial
from itertools import pairwise

import structlog

from gateway.admission import Grant
from gateway.attempts import Attempt
from gateway.errors import (
    GatewayError,
    Overloaded,
    UpstreamError,
    UpstreamInvalid,
    UpstreamRefused,
    UpstreamTimeout,
)
from gateway.forwarding import retries
from gateway.forwarding.predictions import predict
from gateway.forwarding.reading import read
from gateway.forwarding.sleepers import until_awake
from gateway.outgoing import Outgoing, outgoing
from gateway.parsing import heads
from gateway.replies.refusals import AUTH_FAILED
from gateway.replies.relays import Reply
from gateway.routing.breakers import Breakers, Unavailable
from gateway.spending import reserve_again
from gateway.tracing.context import new_span
from gateway.upstream.client import UpstreamReply
from providers.targets import Target

log = structlog.get_logger("gateway")

RETRYABLE = frozenset({408, 429})
RETRIES_ITSELF = b"x-stainless-retry-count"  # OpenAI's clients say so, and wait as long as they are told to


async def forward(grant: Grant) -> Reply:
    """Try the targets in order. Raises the last target's UpstreamError, or Overloaded where the pool is full, or where
    all of them are known to be out of order.

    An older answer stands in for that where the alias keeps one.
    """
    if (upload := grant.ask.upload) is not None:
        first = grant.targets[0]
        upload.keep = len(grant.targets) > 1 or len(first.provider.credentials) > 1
    if grant.share is None:
        return await _first_that_answers(grant)
    try:
        return await _first_that_answers(grant)
    except (UpstreamError, Overloaded):
        if (reply := grant.share.instead()) is None:
            raise
        return reply


async def _first_that_answers(grant: Grant) -> Reply:
    """All of them once, and where none did anything, perhaps again."""
    receipt, breakers = grant.receipt, grant.receipt.process.breakers
    breakers.requests += 1
    failed: UpstreamError | None = None
    while True:
        try:
            return await _round(grant, breakers)
        except Unavailable:
            if failed is not None:
                raise failed from None
            raise
        except UpstreamError as exc:
            failed = exc
        itself = bool(receipt.call.header(RETRIES_ITSELF))
        pause = retries.pause(failed, len(receipt.attempts), retries_itself=itself)
        if pause is None or not _may_go_on(failed, grant) or not breakers.may_retry(grant.targets[-1]):
            raise failed
        await asyncio.sleep(pause)


async def _round(grant: Grant, breakers: Breakers) -> Reply:
    targets = breakers.usable(grant.targets) if breakers.open else grant.targets
    for target, after in pairwise(targets):
        try:
            reply = await _with_credentials(grant, target)
        except UpstreamError as exc:
            if not _may_go_on(exc, grant) or not breakers.may_retry(after):
                raise
            if grant.receipt.attempts[-1].may_be_charged and not await reserve_again(grant.receipt):
                raise
            # They are of the answer that the client gets.
            grant.receipt.ttft, grant.receipt.upstream_request_id = None, ""
        else:
            return _counted(reply, grant, breakers)
    return _counted(await _with_credentials(grant, targets[-1], waits=True), grant, breakers)


def _counted(reply: Reply, grant: Grant, breakers: Breakers) -> Reply:
    if len(grant.receipt.attempts) > 1:
        breakers.retry_worked(reply.target)
    return reply


def _may_go_on(exc: UpstreamError, grant: Grant) -> bool:
    """A request that may have been sent may have been billed: then only the provider's own refusal frees the next."""
    if (upload := grant.ask.upload) is not None and not upload.restarts:
        return False  # a part of the body went to this provider and is nowhere else
    if not exc.sent:
        return True
    if isinstance(exc, UpstreamTimeout):
        in_doubt = sum(attempt.may_be_charged for attempt in grant.receipt.attempts)
        return grant.alias.retry_after_timeout and in_doubt == 1  # a request is paid for twice at most
    return isinstance(exc, UpstreamRefused) and (
        exc.upstream_status in RETRYABLE or exc.upstream_status >= 500 or exc.code == AUTH_FAILED
    )


async def _with_credentials(grant: Grant, target: Target, *, waits: bool = False) -> Reply:
    """A token that the provider no longer takes does not take the provider down while it has another.

    `waits`: one that sleeps is waited for; as long as there is another route, that one is faster.
    """
    others = [card for card in target.provider.credentials if card != target.credential]
    while True:
        try:
            return await _attempt(grant, target, waits=waits)
        except UpstreamRefused as exc:
            if exc.code != AUTH_FAILED or not others or not _may_go_on(exc, grant):
                raise
            target = Target(target.provider, target.model, others.pop(0))


async def _attempt(grant: Grant, target: Target, *, waits: bool) -> Reply:
    receipt = grant.receipt
    clock, breakers = receipt.process.clock, receipt.process.breakers
    attempt = Attempt(target, clock())
    receipt.attempts.append(attempt)
    if receipt.call.trace is not None:
        attempt.span = new_span()
    if breakers.open:
        breakers.begin(target)
    try:
        if waits and target.provider.quirks.asleep and grant.ask.upload is None:
            reply = await until_awake(partial(_ask_upstream, grant, target, attempt), target, receipt)
        else:
            reply = await _ask_upstream(grant, target, attempt, target.provider.timeouts.first_byte)
    except GatewayError as exc:
        attempt.outcome = exc.code or exc.outcome
        attempt.sent = getattr(exc, "sent", attempt.sent)
        if not target.provider.quirks.asleep:  # of one that sleeps a refusal says nothing
            breakers.failed(target, exc, clock() - attempt.started)
        if isinstance(exc, UpstreamRefused):
            attempt.status = exc.upstream_status
            # Not its words: a provider may quote the prompt.
            log.warning(
                "upstream_refused",
                request_id=receipt.call.id,
                provider=target.provider.name,
                status=exc.upstream_status,
                bytes=len(exc.original),
            )
            if receipt.capture is not None:
                receipt.capture.add(exc.original.encode() + b"\n")
        raise
    except asyncio.CancelledError:
        attempt.outcome = "cancelled"
        raise
    else:
        attempt.outcome, attempt.status, attempt.sent = "ok", reply.status, True
        breakers.answered(target, clock() - attempt.started)
        return reply
    finally:
        attempt.milliseconds = round((clock() - attempt.started) * 1000)


async def _ask_upstream(grant: Grant, target: Target, attempt: Attempt, seconds: float) -> Reply:
    """One exchange, whose first byte must have come within so many seconds."""
    ask, receipt, timeouts = grant.ask, grant.receipt, target.provider.timeouts
    forwarded, trace = receipt.call.forwarded, receipt.call.trace
    if forwarded:
        forwarded = heads.for_provider(forwarded, receipt.user[0], receipt.call.end_user)
    call = outgoing(ask, target, forwarded if trace is None else [*forwarded, *trace.told(attempt.span)])
    receipt.total_deadline = attempt.started + timeouts.total
    with receipt.within(seconds, _no_first_byte):
        upstream = await _sent(grant, target, attempt, call)
        attempt.sent = True
        try:
            return await read(grant, target, upstream)
        except RecursionError:
            await asyncio.shield(upstream.aclose())
            raise UpstreamInvalid("The provider's answer is nested too deeply to be read.", sent=True) from None
        except BaseException:
            await asyncio.shield(upstream.aclose())
            raise


async def _sent(grant: Grant, target: Target, attempt: Attempt, call: Outgoing) -> UpstreamReply:
    ask, upstream, timeouts = grant.ask, grant.receipt.process.upstream, target.provider.timeouts
    if call.predicts:
        is_chat = ask.endpoint == "chat.completions"
        return await predict(upstream, target, call, chat=is_chat, stream=ask.stream, sending=attempt)
    once = not ask.is_fixed
    return await upstream.send(
        call.url, call.headers, call.body, timeouts, method=ask.method, sending=attempt, once=once
    )


def _no_first_byte() -> UpstreamTimeout:
    return UpstreamTimeout("The provider did not answer in time; it may have done the work all the same.", sent=True)
