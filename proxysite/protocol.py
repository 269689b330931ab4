"""HTTP/1.1 at the socket: uvicorn's httptools protocol with caps, deadlines and JSON refusals.

llhttp is strict about framing (https://www.rfc-editor.org/rfc/rfc9112#section-6); what it leaves open is closed here:
the size of a head, the time it may take, chunk extensions and trailers, codings besides `chunked`, two Host fields.
"""

import asyncio
import urllib.parse
from asyncio.events import TimerHandle
from collections.abc import Callable
from typing import Any, cast

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from gateway.errors import BadRequest, GatewayError, InternalError, MethodNotAllowed, Overloaded
from proxysite.refusals import HeadTimeout, HeadTooLarge, Receive, Scope, Send, answer, raw_answer
from proxysite.unsent import Unsent

INVALID = "The server could not read this as an HTTP/1.1 request."


class Refusal(Exception):
    """Leaves the parser from within a callback, with what the client is told; None where it is told nothing."""

    def __init__(self, error: GatewayError | None) -> None:
        super().__init__()
        self.error = error


class Cycle(RequestResponseCycle):
    """uvicorn's request and response, with its 500 in OpenAI's shape, and two ways past the usual messages."""

    on_leave: Callable[[], None] | None = None

    def leave(self) -> None:
        """The client is gone, or may as well be."""
        self.disconnected = True
        self.message_event.set()
        on_leave, self.on_leave = self.on_leave, None
        if on_leave is not None:
            on_leave()

    async def send(self, message: Any) -> None:
        if message["type"] == "http.response.start" and not self.response_started and not self.disconnected:
            if self.flow.write_paused:
                await self.flow.drain()
            self.begin(message["status"], [*self.default_headers, *message.get("headers", ())])
        else:
            await super().send(message)

    def begin(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        """The head, looked through for line breaks in one piece."""
        self.response_started = True
        self.waiting_for_100_continue = False
        closing = False
        lines = [STATUS_LINE[status]]
        for name, value in headers:
            name = name.lower()  # Django writes them as its own code does
            if name == b"content-length" and self.chunked_encoding is None:
                self.expected_content_length = int(value)
                self.chunked_encoding = False
            elif name == b"connection":
                closing = b"close" in value.lower()
                self.keep_alive = self.keep_alive and not closing
            lines.append(b"%b: %b\r\n" % (name, value))
        if not self.keep_alive and not closing:
            lines.append(b"connection: close\r\n")
        if self.chunked_encoding is None and self.scope["method"] != "HEAD" and status not in (204, 304):
            self.chunked_encoding = True
            lines.append(b"transfer-encoding: chunked\r\n")
        head = b"".join(lines)
        if head.count(b"\n") != len(lines) or head.count(b"\r") != len(lines) or b"\0" in head:
            raise RuntimeError("A header of the answer holds a line break.")
        self.transport.write(head + b"\r\n")

    async def send_500_response(self) -> None:
        await answer(InternalError("The server had an error while processing your request."), cast("Send", self.send))


async def overloaded(scope: Scope, receive: Receive, send: Send) -> None:
    await answer(Overloaded("The server has no room for another request now."), send)


class ServingState(ServerState):
    """uvicorn's state of a server, and whether it drains: then each answer is its connection's last."""

    draining = False


class GatewayProtocol(HttpToolsProtocol):
    """One connection. Sizes are in bytes, times in seconds; a subclass sets others.

    A request is parsed only when the answer to the one before is complete: bytes that come earlier (pipelining) are
    dropped and the connection closes after that answer, as RFC 9112 section 9.3.2 allows.
    """

    head_bytes = 32 * 1024
    head_fields = 100
    head_seconds = 10.0
    # Chunk headers, chunk extensions and trailers of one body, beyond 32 bytes a chunk.
    framing_bytes = 16 * 1024
    # How long, and for how many bytes, a client that was answered early may finish its sentence.
    linger_seconds = 2.0
    linger_bytes = 16 * 1024 * 1024
    # In which a client has to take a part of what waits for it; a stream's own limit is shorter, and stands in its row.
    stall_seconds = 40.0

    cycle: Cycle
    unsent: Unsent

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.serving = cast("ServingState", self.server_state)
        self.in_body = False
        self.head_size = 0
        self.hosts = 0
        self.body_size = 0
        self.chunks = 0
        self.chunked = False
        self.dropping = False
        self.dropped = 0
        self.deadline: TimerHandle | None = None
        # Of the connection and not of its cycles: each of those would be a ring that only the collector takes apart.
        self.extensions: dict[str, dict[object, object]] = {
            "gateway.abort": {"call": self.abort},
            "gateway.body": {"call": self.body},
            "gateway.watch": {"call": self.watch},
            "gateway.write": {"call": self.write},
        }

    # --- the connection ----------------------------------------------------------------------------------------------
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.unsent = Unsent(transport, self.stall_seconds, self.abort)
        if self.limit_concurrency is not None and len(self.connections) > self.limit_concurrency:
            self.refuse(Overloaded("The server has no room for another connection now."))
            return
        self.deadline = self.loop.call_later(self.head_seconds, self.head_is_late)

    def connection_lost(self, exc: Exception | None) -> None:
        self.disarm()
        self.unsent.end()
        super().connection_lost(exc)
        self._unset_keepalive_if_required()
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.leave()

    def disarm(self) -> None:
        if self.deadline is not None:
            self.deadline.cancel()
            self.deadline = None

    def head_is_late(self) -> None:
        self.deadline = None
        if self.head_size:
            self.refuse(HeadTimeout(f"The request's head did not arrive within {self.head_seconds:g} s."), linger=False)
        else:
            self.transport.close()

    # --- bytes in ----------------------------------------------------------------------------------------------------
    def data_received(self, data: bytes) -> None:
        if self.timeout_keep_alive_task is not None:
            self.timeout_keep_alive_task.cancel()
            self.timeout_keep_alive_task = None
        if self.dropping:
            self.drop(len(data))
            return
        if self.in_body:
            self.body_size += len(data)
        elif self.cycle is not None and not self.cycle.response_complete:
            self.stop_after_answer()
            return
        else:
            self.head_size += len(data)
        try:
            self.parser.feed_data(data)
            self.after_feeding()
        except httptools.HttpParserUpgrade:
            # RFC 9110 section 7.8: a server may ignore Upgrade; the request has been started as a plain one.
            self.stop_after_answer()
        except httptools.HttpParserCallbackError as exc:
            self.refuse(self.cause_of(exc))
        except Refusal as exc:
            self.refuse(exc.error)
        except httptools.HttpParserError:
            self.refuse(BadRequest(INVALID))

    def cause_of(self, exc: httptools.HttpParserCallbackError) -> GatewayError | None:
        """What a callback raised, which httptools keeps as the context of its own error."""
        cause = exc.__context__
        if isinstance(cause, Refusal):
            return cause.error
        if isinstance(cause, (httptools.HttpParserError, UnicodeDecodeError)):
            return BadRequest(INVALID)
        self.logger.error("Reading a request failed", exc_info=cause)
        return InternalError("The server had an error while reading your request.")

    def after_feeding(self) -> None:
        if self.in_body:
            if self.chunked:
                self.check_framing()
        elif self.head_size:
            if self.head_size > self.head_bytes:
                raise Refusal(self.too_large())
            if self.deadline is None:
                self.deadline = self.loop.call_later(self.head_seconds, self.head_is_late)

    def check_framing(self) -> None:
        if self.body_size > self.framing_bytes + 32 * self.chunks:
            raise Refusal(BadRequest("The framing of the chunked body is too large."))

    def too_large(self) -> HeadTooLarge:
        return HeadTooLarge(f"The request's head is over {self.head_bytes} bytes or {self.head_fields} fields.")

    def stop_after_answer(self) -> None:
        """Take no further request from this connection: close when the answer under way is complete."""
        self.cycle.keep_alive = False
        self.dropping = True

    def drop(self, size: int) -> None:
        self.dropped += size
        if self.dropped > self.linger_bytes:
            self.transport.close()

    # --- the parser's callbacks --------------------------------------------------------------------------------------
    def on_message_begin(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            raise Refusal(None)
        super().on_message_begin()
        self.hosts = 0
        self.chunked = False
        self.head_size = self.head_size or 1

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.in_body:
            return  # a trailer field: it would otherwise join the head that has been authorised
        name = name.lower()
        if name == b"host":
            self.hosts += 1
        elif name == b"expect":
            self.expect_100_continue = value.lower() == b"100-continue"
        elif name == b"transfer-encoding":
            self.chunked = True
            if value.lower() != b"chunked":
                raise Refusal(BadRequest("The only transfer coding understood is `chunked`."))
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        self.disarm()
        http_version = self.parser.get_http_version()
        self.check_head(http_version)
        self.in_body = True
        self.chunks = 0
        self.body_size = self.head_size - self.exact_head() if self.chunked else 0
        scope = self.scope
        scope["method"] = self.parser.get_method().decode("ascii")
        if http_version != "1.1":
            scope["http_version"] = http_version
        url = httptools.parse_url(self.url)
        raw_path = url.path or b"/"  # absolute-form may have none
        path = raw_path.decode("ascii")
        scope["raw_path"] = self.root_path.encode("ascii") + raw_path
        scope["path"] = self.root_path + (urllib.parse.unquote(path) if "%" in path else path)
        scope["query_string"] = url.query or b""
        scope["extensions"] = self.extensions
        limit = self.limit_concurrency
        full = limit is not None and len(self.tasks) >= limit
        self.cycle = Cycle(
            scope=scope,
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=self.access_log,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=self.expect_100_continue,
            keep_alive=http_version != "1.0" and self.parser.should_keep_alive() and not self.serving.draining,
            on_response=self.on_response_complete,
        )
        self._start_asgi_task(self.cycle, cast("Any", overloaded) if full else self.app)

    def exact_head(self) -> int:
        return len(self.url) + 20 + sum(len(name) + len(value) + 4 for name, value in self.headers)

    def check_head(self, http_version: str) -> None:
        if len(self.headers) > self.head_fields:
            raise Refusal(self.too_large())
        # The read that ended the head may hold the start of the body: now that all is here, count exactly.
        if self.head_size > self.head_bytes and self.exact_head() > self.head_bytes:
            raise Refusal(self.too_large())
        if self.hosts != 1 and (self.hosts or http_version == "1.1"):
            raise Refusal(BadRequest("A request has exactly one Host field."))
        if self.chunked and http_version == "1.0":
            raise Refusal(BadRequest("HTTP/1.0 knows no transfer coding."))
        if self.parser.get_method() == b"CONNECT":
            raise Refusal(MethodNotAllowed("This server is no forward proxy."))

    def on_chunk_header(self) -> None:
        self.chunks += 1

    def on_body(self, body: bytes) -> None:
        self.body_size -= len(body)
        if not self.cycle.response_complete:
            super().on_body(body)

    def on_message_complete(self) -> None:
        if self.chunked:
            self.check_framing()
        self.in_body = False
        self.head_size = 0
        if not self.cycle.response_complete:
            self.cycle.more_body = False
            self.cycle.message_event.set()

    # --- for the application -----------------------------------------------------------------------------------------
    def abort(self) -> None:
        """Drop the connection, with all that is still to be written to it."""
        self.cycle.leave()
        self.transport.abort()

    def body(self) -> bytes | None:
        """The request's body where all of it has come; None where `receive` has to be asked."""
        cycle = self.cycle
        if cycle.more_body or cycle.disconnected or cycle.response_complete or cycle.waiting_for_100_continue:
            return None
        body, cycle.body = bytes(cycle.body), bytearray()
        return body

    def watch(self, on_leave: Callable[[], None]) -> None:
        """Call it once if the client leaves before the answer's end; the body has been read whole.

        It saves a task for each request, which would do nothing but wait in `receive()`.
        """
        self.cycle.on_leave = on_leave
        self.flow.resume_reading()
        if self.cycle.disconnected:
            self.cycle.leave()

    def write(self, part: bytes) -> bool:
        """A part of a chunked answer that has begun, now; False where it was not written and `send` has to be asked."""
        cycle = self.cycle
        if self.flow.write_paused or cycle.disconnected or not cycle.chunked_encoding or cycle.response_complete:
            return False
        self.transport.write(b"%x\r\n%b\r\n" % (len(part), part))
        return True

    # --- bytes out ---------------------------------------------------------------------------------------------------
    def pause_writing(self) -> None:
        super().pause_writing()
        self.unsent.watch()

    def resume_writing(self) -> None:
        super().resume_writing()
        self.unsent.end()

    def on_response_complete(self) -> None:
        self.cycle.on_leave = None  # it holds the whole request
        super().on_response_complete()
        if self.in_body and not self.transport.is_closing():
            self._unset_keepalive_if_required()
            self.linger()

    def refuse(self, error: GatewayError | None, *, linger: bool = True) -> None:
        """End the connection: after the answer under way if there is one to a whole request, else with `error`."""
        self.disarm()
        cycle = self.cycle
        pending = cycle is not None and not cycle.response_complete
        if error is None or (pending and not cycle.more_body):
            self.stop_after_answer()
            return
        if pending:
            cycle.leave()
        if not (pending and cycle.response_started):
            self.logger.warning("Refused a request: %d %s", error.status, error.code or error.type)
            self.transport.write(raw_answer(error, self.server_state.default_headers))
        if linger and not self.transport.is_closing():
            self.linger()
        else:
            self.transport.close()

    def drain(self) -> None:
        """Close if idle; else close after the answer. A connection that has not asked anything yet may ask once."""
        if self.cycle is not None:
            self.shutdown()

    def linger(self) -> None:
        """Close, but let the client finish its sentence: a close with unread bytes resets the connection, and the
        reset can overtake the answer (RFC 9112 section 9.6)."""
        self.dropping = True
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.deadline = self.loop.call_later(self.linger_seconds, self.transport.close)
