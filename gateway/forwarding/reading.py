"""What an upstream's answer becomes: a refusal, a whole answer or a stream whose first bytes have come."""

from collections.abc import AsyncIterator
from functools import partial
from typing import cast

import msgspec
from msgspec.structs import replace

from gateway import belongings
from gateway.admission import Grant
from gateway.belongings import is_kept
from gateway.errors import UpstreamError, UpstreamInvalid, UpstreamTimeout
from gateway.parsing.asks import Ask, Form
from gateway.receipts import Receipt
from gateway.replies.answers import as_stream, check_answer, read_error, with_base64, with_floats
from gateway.replies.asevents import response_events
from gateway.replies.mending import decode_fields
from gateway.replies.refusals import refusal, refuse
from gateway.replies.relays import Reply, Source
from gateway.replies.streams import relay_for
from gateway.upstream.client import UpstreamReply
from ledger import counting
from ledger.usage import Usage, decode_messages_usage, decode_usage, read_media
from providers import dialects
from providers.targets import Target

MAX_ANSWER = 32 * 1024 * 1024
MAX_REFUSAL = 64 * 1024
EVENT_STREAM = "text/event-stream; charset=utf-8"
# How a stream may begin whose provider does not say that it is one.
EVENT_STARTS = (b"data:", b"event:", b"id:", b"retry:", b":", b"\n", b"\r", b"\xef\xbb\xbf")
# What of a provider's head goes on to the client, of answers that are passed on as they are.
RETURNED = ("content-disposition", "content-language", "location", "openai-model", "openai-organization")


async def read(grant: Grant, target: Target, upstream: UpstreamReply) -> Reply:
    """The reply, as the form of the operation has it. Raises UpstreamRefused, UpstreamInvalid, UpstreamTimeout."""
    receipt, ask = grant.receipt, grant.ask
    receipt.upstream_request_id = upstream.headers.get("x-request-id", "")[:200]
    if not 200 <= upstream.status <= 299:
        body = await _beginning(upstream)
        raise refusal(upstream.status, dict(upstream.headers.items()), body, _secrets(target), target.provider.quirks)
    return await (_completion if ask.form is Form.COMPLETION else _as_it_is)(grant, target, upstream)


async def _completion(grant: Grant, target: Target, upstream: UpstreamReply) -> Reply:
    receipt, ask = grant.receipt, grant.ask
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
    dialect = dialects.get(target.provider.dialect)
    answer = check_answer(
        upstream.status,
        content_type,
        body,
        ask.endpoint,
        secrets=_secrets(target),
        quirks=target.provider.quirks,
        convert=partial(dialect.answer, ask.path) if ask.path in dialect.converts else None,
        model=ask.model,
    )
    if answer.usage is not None:
        receipt.usage, receipt.usage_source = answer.usage, "provider"
    else:
        tokens_in = counting.prompt_tokens(ask.fields)
        receipt.usage, receipt.usage_source = Usage(tokens_in, counting.answer_tokens(answer.body)), "estimated"
    if is_kept(ask):
        await belongings.note(receipt, target, decode_fields(answer.body), answer.body)
    whole = answer.body if grant.share is None else grant.share.whole(target, answer.body)
    if ask.stream:
        stream = as_stream(whole, chat=ask.endpoint == "chat.completions", wants_usage=ask.wants_usage)
        return Reply(target, 200, EVENT_STREAM, stream)
    if ask.endpoint == "embeddings":
        whole = with_base64(whole) if ask.wants_base64 else with_floats(whole)
    return Reply(target, upstream.status, "application/json", whole)


async def _as_it_is(grant: Grant, target: Target, upstream: UpstreamReply) -> Reply:
    """Status, body and kind as the provider gave them; what the answer says of its usage is taken down."""
    receipt, ask = grant.receipt, grant.ask
    content_type = upstream.headers.get("content-type", "")
    headers = _returned(upstream)
    chunks = upstream.chunks()
    if "event-stream" in content_type:
        first = await anext(chunks, b"")
        _first_byte(receipt)
        return replace(_stream(grant, target, first, upstream, chunks), headers=headers)
    _first_byte(receipt)
    if _is_file(ask, content_type):
        if ask.is_billed:
            receipt.usage = Usage()  # a price may be one of the request alone
        first = await anext(chunks, b"")
        length = None if upstream.headers.get("content-encoding") else upstream.headers.get("content-length")
        return Reply(target, upstream.status, content_type, first, None, upstream, chunks, headers, length)
    body = await _whole(receipt, target, chunks)
    await upstream.aclose()
    fields = _checked(content_type, body, _secrets(target))
    usage = _usage_of(ask, fields)
    if ask.is_billed:  # else it was counted when the work was asked for
        receipt.usage = usage or Usage()  # a price may be one of the request alone
        receipt.usage_source = "none" if usage is None else "provider"
    if fields:
        body = await belongings.note(receipt, target, fields, body)
    if ask.stream and ask.form is Form.RESPONSES and "output" in fields:
        events = response_events(body)
        if events is not None:
            return Reply(target, upstream.status, EVENT_STREAM, events, headers=headers)
    return Reply(target, upstream.status, content_type, body, headers=headers)


def _is_file(ask: Ask, content_type: str) -> bool:
    """Sound, a file, a transcript as text: nothing in it is read, and of no more than a chunk at a time is it held."""
    return ask.path.endswith("/content") or not (not content_type or "json" in content_type or "html" in content_type)


def _usage_of(ask: Ask, fields: dict[str, msgspec.Raw]) -> Usage | None:
    decode = decode_messages_usage if ask.form is Form.MESSAGES else decode_usage
    return read_media(ask.endpoint, fields, decode(fields["usage"]) if "usage" in fields else None)


def _checked(content_type: str, body: bytes, secrets: list[str]) -> dict[str, msgspec.Raw]:
    """The fields of a JSON object, none of anything else. Raises UpstreamInvalid for a web page and for broken JSON.

    Raises UpstreamRefused for an error with a good status; an object with a name may have an `error` of its own, which
    says what became of it.
    """
    if "html" in content_type:
        raise UpstreamInvalid("The provider answered with a web page.", sent=True)
    if "json" not in content_type or not body:
        return {}
    text = body.lstrip()
    try:
        if not text.startswith(b"{"):
            msgspec.json.decode(text)
            return {}
        fields = decode_fields(text)
        complaint = None if "id" in fields or "object" in fields else read_error(fields)
    except (ValueError, RecursionError):
        raise UpstreamInvalid("The provider answered with a body that is not whole, valid JSON.", sent=True) from None
    if complaint is not None:
        raise refuse(complaint, complaint.status or 502, secrets=secrets, original=body.decode("utf-8", "replace"))
    return fields


def _returned(upstream: UpstreamReply) -> tuple[tuple[str, str], ...]:
    given = ((name, upstream.headers.get(name, "")) for name in RETURNED)
    # A place at the provider's own address is none for a client of ours.
    return tuple((name, value) for name, value in given if value and (name != "location" or value.startswith("/")))


async def _whole(receipt: Receipt, target: Target, chunks: AsyncIterator[bytes], first: bytes = b"") -> bytes:
    """The rest of a body, with `first` before it; silence within it counts as in a stream, memory as for a request."""
    parts, size = [first], len(first)
    receipt.call.take(size)
    try:
        with receipt.within(target.provider.timeouts.gap, _silent):
            async for data in chunks:
                receipt.heard = True
                receipt.call.take(len(data))
                parts.append(data)
                size += len(data)
                if size > MAX_ANSWER:
                    raise UpstreamInvalid(f"The provider's answer is larger than {MAX_ANSWER} bytes.", sent=True)
    except BaseException:
        receipt.attempts[-1].received = size
        raise
    return b"".join(parts)


def _stream(grant: Grant, target: Target, first: bytes, upstream: UpstreamReply, chunks: AsyncIterator[bytes]) -> Reply:
    """A stream whose head can still be a refusal: an error in its first event is the answer's status, and no event."""
    secrets, source = tuple(_secrets(target)), cast("Source", upstream)
    relay = relay_for(grant.ask, secrets=secrets, quirks=target.provider.quirks)
    if grant.share is not None:
        first, source, chunks = grant.share.record(target, first, upstream, chunks, secrets)
    out = relay.feed(first)
    if relay.failed is not None and relay.events_relayed <= 1:
        raise relay.failed
    belongings.note_stream(grant.receipt, target, relay.created)
    return Reply(target, 200, EVENT_STREAM, out, relay, source, chunks)


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


def _silent() -> UpstreamTimeout:
    return UpstreamTimeout("The provider stopped sending before its answer was complete.", sent=True)
