"""From an upstream's reply to the client's response: whole, or live."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from functools import partial
from typing import Any

import structlog
from django.http import HttpResponse, StreamingHttpResponse

from gateway.belongings import note_stream
from gateway.errors import GatewayError, StreamInterrupted
from gateway.forwarding.sleepers import Waking
from gateway.receipts import Receipt
from gateway.replies import shapes
from gateway.replies.chat import ChatRelay
from gateway.replies.relays import Relay, Reply, read_rest
from gateway.replies.sse import PING
from ledger import counting

log = structlog.get_logger("gateway")

Send = Callable[[dict[str, Any]], Awaitable[None]]
Write = Callable[[bytes], bool]

PING_AFTER = 12.0  # seconds of silence; the promise to the client is one comment in any 15
WRITE_STALL = 30.0  # seconds in which a client has not taken what is waiting for it
DRAINS = 64  # streams of a process that are read on after their client has left
DRAIN_SECONDS = 60.0


class ClientStalled(GatewayError):
    """The client has stopped reading: nobody is there to be told, the connection is cut."""

    outcome = "client_stalled"
    status = 499


def deliver(reply: Reply, receipt: Receipt) -> "Whole | Live":
    """The response to the client. It owns the receipt from here on."""
    if reply.relay is not None:
        return Live(receipt, reply)
    return Whole(receipt, reply) if reply.chunks is None else Download(receipt, reply)


def deliver_early(pending: Coroutine[Any, Any, Reply] | Waking, receipt: Receipt) -> "Live":
    """A stream whose head goes out at once; an error of the upstream then is an event, and no status."""
    return Live(receipt, None, pending)


def label(response: HttpResponse | StreamingHttpResponse, reply: Reply) -> None:
    response.headers["x-gateway-provider"] = reply.target.provider.name
    for name, value in reply.headers:
        response.headers[name] = value


class Whole(HttpResponse):
    """An answer in one piece."""

    def __init__(self, receipt: Receipt, reply: Reply) -> None:
        super().__init__(reply.body, status=reply.status, content_type=reply.content_type, charset="utf-8")
        self.receipt = receipt
        if receipt.capture is not None:
            receipt.capture.add(reply.body)
        label(self, reply)

    async def finish(self, exc: BaseException | None = None) -> None:
        """Settle; the work was done whether or not the client took the answer."""
        self.receipt.settle("ok" if exc is None else "client_cancelled")


class Live(StreamingHttpResponse):
    """A stream under way. `run` is its only reader, `finish` its only end: both close the upstream and settle once."""

    has_events = True  # what is added to it (comments, an error) is an event too

    def __init__(
        self, receipt: Receipt, reply: Reply | None, pending: Coroutine[Any, Any, Reply] | Waking | None = None
    ) -> None:
        super().__init__(self.parts(), content_type="text/event-stream; charset=utf-8", charset="utf-8")
        self.headers["cache-control"] = "no-cache, no-transform"
        self.headers["x-accel-buffering"] = "no"
        self.receipt = receipt
        self.reply = reply
        self.pending = pending
        self.outcome = "ok"
        self.error: GatewayError | None = None
        self.left = receipt.left  # the client is gone, and the stream is read on: for its usage, or for others
        self.drains = False  # for its usage
        self.wrote = False  # since the last tick: the loop over the chunks asks no clock
        self.last_out = self.writing_from = receipt.process.clock()
        self.send: Send | None = None
        self.direct: Write | None = None
        self.ahead: tuple[bytes, int] | None = None  # a part made already, and how many of the next bytes it is of
        self.ping: asyncio.Future[None] | None = None
        if reply is not None:
            label(self, reply)

    async def run(self, send: Send, write: Write | None = None) -> None:
        """Write every part to the client; returns before the last, empty body message.

        `write` is the server's own way for a part that it can take at once: see `pass_on`.
        """
        receipt = self.receipt
        parts = self.parts()
        if receipt.capture is not None:
            # Every part has to pass here: none goes from socket to socket alone.
            write, parts = None, receipt.capture.tee(parts)
        self.send, self.direct = send, write
        call = receipt.call
        receipt.on_tick = self.tick
        drain = self.has_events and self.reply is not None and self.reply.target.provider.options.get("drain")
        if drain or call.on_leave is not None:
            call.on_leave = partial(self.read_on, bool(drain), call.on_leave)
        async for part in parts:
            if self.left and not call.recorded:
                continue
            receipt.writing = True
            try:
                await send({"type": "http.response.body", "body": part, "more_body": True})
            except asyncio.CancelledError:
                if (error := receipt.interrupted()) is None:
                    raise
                raise error from None
            receipt.writing, self.wrote = False, True
            call.bytes_out += len(part)

    def read_on(self, drain: bool, for_others: Callable[[], bool] | None) -> bool:
        """The client has left: whether the rest is read without it, for the usage at its end and for what it costs.

        `for_others` says whether other requests wait for the same answer.
        """
        receipt = self.receipt
        process = receipt.process
        if self.left:
            return False
        if for_others is not None and for_others():
            self.left = True
            return True
        if not drain or process.drains >= DRAINS:
            return False
        self.left = self.drains = True
        process.drains += 1
        receipt.total_deadline = min(receipt.total_deadline, process.clock() + DRAIN_SECONDS)
        return True

    async def parts(self) -> AsyncIterator[bytes]:
        """What the client gets, each part a whole number of events; an error is the last event, without `[DONE]`."""
        try:
            if self.reply is None:
                yield PING
                assert self.pending is not None
                self.reply = await self.pending
            async for part in self._relayed(self.reply):
                yield part
        except GatewayError as exc:
            yield self._broken(exc)
        except asyncio.CancelledError:
            if (error := self.receipt.interrupted()) is None:
                raise
            yield self._broken(error)

    def _broken(self, exc: GatewayError) -> bytes:
        self.error, self.outcome = exc, exc.outcome
        return shapes.event(exc, self.receipt.ask.form)

    async def _relayed(self, reply: Reply) -> AsyncIterator[bytes]:
        relay, chunks = reply.relay, reply.chunks
        if reply.body:
            yield reply.body
        if relay is None or chunks is None:
            return
        try:
            with self.receipt.within(reply.target.provider.timeouts.gap, _silent):
                if self.direct is not None and reply.upstream is not None and isinstance(relay, ChatRelay):
                    reply.upstream.pipe(partial(self.pass_on, relay, self.direct))
                if not relay.done:
                    async for data in chunks:
                        self.receipt.heard = True
                        if part := self._made(relay, data):
                            yield part
                        if relay.done or relay.failed is not None:
                            break
            if relay.failed is None and (part := relay.end()):
                yield part
            if relay.failed is not None:
                self.error, self.outcome = relay.failed, "upstream_error"
        except StreamInterrupted:
            raise
        except GatewayError as exc:
            interrupted = StreamInterrupted(f"The stream broke off: {exc.message}", sent=True)
            interrupted.outcome = exc.outcome if exc.outcome != "upstream_error" else StreamInterrupted.outcome
            raise interrupted from exc

    def _made(self, relay: Relay, data: bytes) -> bytes:
        """What the client gets for these bytes, of which the first may have been read when they were passed on."""
        if self.ahead is None:
            return relay.feed(data)
        (part, size), self.ahead = self.ahead, None
        return part + relay.feed(data[size:])

    def pass_on(self, relay: ChatRelay, write: Write, data: bytes) -> bool:
        """Whole events from the provider's socket to the client's while the task waits for them: none wakes a task.

        False where there is something to wait for, and at the end: the task gets the bytes then.
        """
        part = None if self.left else relay.whole(data)
        if part is None:
            return False
        if relay.done or relay.failed is not None or (part and not write(part)):
            self.ahead = part, len(data)
            return False
        self.receipt.heard = True
        if part:
            self.wrote = True
            self.receipt.call.bytes_out += len(part)
        return True

    def tick(self, now: float) -> None:
        """Called every 250 ms: a comment into a silent stream, the end of one that its client does not read."""
        writing = self.receipt.writing
        if self.left:
            return
        if self.wrote or not writing:
            self.writing_from = now
        if self.wrote:
            self.wrote, self.last_out = False, now
        if now - self.writing_from > WRITE_STALL:
            self.receipt.interrupt(ClientStalled("the client does not read"))
        elif writing or self.send is None or not self.has_events or now - self.last_out < PING_AFTER:
            return
        elif self.ping is None or self.ping.done():
            self.last_out = now
            self.ping = asyncio.ensure_future(self._ping(self.send))

    async def _ping(self, send: Send) -> None:
        try:
            await send({"type": "http.response.body", "body": PING, "more_body": True})
        except OSError:
            # The client has gone; the disconnect watch says so too, and ends the stream.
            return
        self.receipt.call.bytes_out += len(PING)

    async def finish(self, exc: BaseException | None = None) -> None:
        """Settle, then close the upstream; a cancellation does not stop the closing."""
        if self.ping is not None:
            self.ping.cancel()  # one that still waits would come after the end
        self._account()
        if self.drains:
            self.receipt.process.drains -= 1
        if self.left:
            self.receipt.settle("client_cancelled")
        elif isinstance(exc, GatewayError):
            self.receipt.settle(exc.outcome, error=exc)
        elif exc is not None:
            self.receipt.settle_for(exc)
        else:
            self.receipt.settle(self.outcome, error=self.error)
        if self.pending is not None:
            self.pending.close()
        if self.reply is not None and self.reply.upstream is not None:
            closing = _close(self.reply, clean=exc is None)
            # After a clean end the disconnect watch is off: nothing cancels, and no task is needed.
            await (closing if exc is None else asyncio.shield(asyncio.ensure_future(closing)))

    def _account(self) -> None:
        receipt, relay = self.receipt, self.reply.relay if self.reply else None
        if relay is not None and self.reply is not None:
            note_stream(receipt, self.reply.target, relay.created)
        if relay is None or not receipt.ask.is_billed:
            return
        if relay.usage is not None:
            receipt.usage, receipt.usage_source = relay.usage, "provider"
        else:
            tokens_in = counting.prompt_tokens(receipt.ask.fields)
            receipt.usage, receipt.usage_source = relay.estimate(tokens_in), "estimated"


class Download(Live):
    """A file on its way: the provider's bytes as they come, never more than a chunk of them here.

    Nothing can be added to it. One that breaks off ends with the connection, so that nobody takes it for whole.
    """

    has_events = False

    def __init__(self, receipt: Receipt, reply: Reply) -> None:
        super().__init__(receipt, reply)
        del self.headers["cache-control"]
        self.status_code = reply.status
        self.headers["content-type"] = reply.content_type
        if reply.length is not None:
            self.headers["content-length"] = reply.length

    async def parts(self) -> AsyncIterator[bytes]:
        assert self.reply is not None
        assert self.reply.chunks is not None
        if self.reply.body:
            yield self.reply.body
        with self.receipt.within(self.reply.target.provider.timeouts.gap, _silent):
            async for data in self.reply.chunks:
                self.receipt.heard = True
                yield data


async def _close(reply: Reply, *, clean: bool) -> None:
    """Close the upstream; a stream that said `[DONE]` is read to its end first, so that the connection serves again."""
    assert reply.upstream is not None
    try:
        if clean and reply.relay is not None and reply.relay.done and reply.chunks is not None:
            await read_rest(reply.chunks)
    finally:
        await reply.upstream.aclose()


def _silent() -> StreamInterrupted:
    error = StreamInterrupted("The provider stopped sending before its answer was complete.", sent=True)
    error.outcome = "upstream_timeout"
    return error
