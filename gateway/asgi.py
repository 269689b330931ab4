"""Django's ASGI handler without its thread hops: the key is checked on the head alone, the body is read under caps.

The stock handler spools the whole body first, makes a thread executor a request and closes the response in a thread.
Overridden is `__call__` only, and the middleware, of which the gateway's paths have none.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from functools import lru_cache, partial
from typing import Any

import structlog
from django.conf import settings
from django.core.handlers.asgi import ASGIHandler
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseNotAllowed
from django.http.response import HttpResponseBase
from django.urls import ResolverMatch, get_resolver

from gateway import access, bodies, cors, idempotency
from gateway.admission import check_address, check_end_user, named_end_user
from gateway.api import error_response
from gateway.delivery import Live, Whole
from gateway.endpoints import reports
from gateway.engine import Engine, engine
from gateway.errors import BodyTooLarge, GatewayError, MethodNotAllowed, NotFound, Overloaded
from gateway.parsing import heads, places
from gateway.parsing.fingerprints import Fingerprint
from gateway.parsing.multipart import boundary_of
from gateway.parsing.requests import APIRequest
from gateway.receipts import Call
from gateway.uploads import is_form
from providers import snapshot

LARGE = 64 * 1024  # bytes of an answer, above which it is not done with before most of it has gone out
FAILED = "awslambda.failed"  # the extension of a server that counts answers with an error in them
API_VERSION = b"2020-10-01"  # what OpenAI's own answers say; some clients log it

log = structlog.get_logger("gateway")

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


class GatewayHandler(ASGIHandler):
    """The application for all paths but Django's own."""

    def __init__(self, own_engine: Engine = engine) -> None:
        self.engine = own_engine
        self.access_log: bool = settings.GATEWAY_ACCESS_LOG
        super().__init__()

    def load_middleware(self, is_async: bool = False) -> None:
        """None: each sync one would cost a hop to a thread, and what they do is not for an API."""
        self._view_middleware: list[Any] = []
        self._template_response_middleware: list[Any] = []
        self._exception_middleware: list[Any] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # type: ignore[override]
        process = await self.engine.running()
        call = Call(*heads.request_id(scope), process, process.clock(), time.time(), asyncio.current_task())
        call.caller, call.header = partial(heads.caller, scope), partial(heads.value, scope)
        call.place = places.read(scope["path"])
        path = call.place.path
        if process.traces is not None:
            call.trace = process.traces.begin(call.header)
        try:
            await self._serve(call, scope, path, receive, send)
        except bodies.ClientGone:
            call.disconnected = True
        except GatewayError as exc:  # one that the client could not be told: it does not read
            call.error = exc
            cut_off(scope)
        except asyncio.CancelledError:
            if not call.disconnected:
                raise
            asyncio.current_task().uncancel()  # type: ignore[union-attr]
        finally:
            call.release()
            if process.meters is not None:
                process.meters.answered(call)
            if call.trace is not None and process.traces is not None:
                process.traces.finished(call)
            if self.access_log:
                access.write(call, scope["method"], path)

    async def _serve(self, call: Call, scope: Scope, path: str, receive: Receive, send: Send) -> None:
        watch = Watch(call, scope, receive)
        response: HttpResponseBase
        try:
            try:
                if scope["method"] == "OPTIONS" and cors.is_preflight(scope):
                    await _send_preflight(call, scope, send)
                    return
                request = await self._admit_head(call, scope, path, receive, watch)
                begun = await _begun(call, scope, path, request)
                if begun is None:
                    response = await self._respond(request)
                elif not isinstance(begun, idempotency.Recording):
                    response = begun
            except bodies.ClientGone:
                raise
            except GatewayError as exc:
                call.error = exc
                response, begun = error_response(exc, call), None
            if isinstance(begun, idempotency.Recording):
                await self._serve_once(call, scope, request, send, watch, begun)
            else:
                await _answer(call, scope, response, send, watch)
        finally:
            watch.end()

    async def _serve_once(
        self, call: Call, scope: Scope, request: APIRequest, send: Send, watch: "Watch", begun: idempotency.Recording
    ) -> None:
        """The first request with its Idempotency-Key: the answer is kept on its way out."""
        try:
            try:
                response = await self._respond(request)
            except GatewayError as exc:
                call.error = exc
                response = error_response(exc, call)
            # Without the server's own short ways: what goes out is looked at.
            told = {name: way for name, way in scope.get("extensions", {}).items() if name == FAILED}
            await _answer(call, {**scope, "extensions": told}, response, begun.through(send), watch)
        finally:
            await asyncio.shield(asyncio.ensure_future(begun.close()))

    async def _admit_head(self, call: Call, scope: Scope, path: str, receive: Receive, watch: "Watch") -> APIRequest:
        """The key first: who has none does not get his body read. JSON is read whole here, all else as it goes on."""
        if self.engine.draining:
            raise Overloaded("The gateway is shutting down.", code="shutting_down")
        head = heads.read(scope)
        if path != reports.PATH:
            await self._admit_caller(call, head)
        elif not 0 < (bodies.declared_length(head.content_length) or 0) <= reports.MAX_BYTES:
            raise BodyTooLarge(f"Send a report of at most {reports.MAX_BYTES} bytes, with its Content-Length.")
        call.provider = call.place.provider or head.provider
        call.forwarded, call.explains = head.forwarded, head.explains
        incoming, body = None, b""
        if head.is_upload:
            incoming = bodies.Incoming(call, receive, head.content_length, head.content_encoding)
            incoming.on_end = watch.begin
        else:
            bodies.declared_length(head.content_length)
            own = scope.get("extensions", {}).get("gateway.body")
            body = await bodies.read(call, receive, own["call"]() if own is not None else None)
            if head.content_encoding not in bodies.PLAIN:
                body = bodies.decoded(call, body, head.content_encoding)
            watch.begin()
        request = APIRequest(scope, path, body)
        request.call = call  # type: ignore[attr-defined]
        request.incoming = incoming  # type: ignore[attr-defined]
        return request

    async def _admit_caller(self, call: Call, head: heads.Head) -> None:
        desk = self.engine.desk
        if head.origin and desk.kind_of(head.token).for_pages and cors.is_known(head.origin):
            call.origin = head.origin  # so that the page can read why it is refused
        identity = await desk.authenticate(head.token, call.caller)
        key = call.key = identity.key
        call.origin = ""
        if identity.origins is not None:
            cors.check(head.origin, identity.origins)
            call.origin = head.origin
        if key.cidrs:
            check_address(key, call.caller())
        call.end_user, call.issued_at = identity.end_user, identity.issued_at
        if call.end_user and (config := snapshot.current()).end_users:
            check_end_user(config, key, call.end_user, call.issued_at)
        if head.end_user is not None:
            call.end_user = named_end_user(key, head.end_user)

    def make_view_atomic(self, view: Any) -> Any:
        """The view as it is: none of them uses the ORM, and each database would be asked whether it wants a frame."""
        return view

    def resolve_request(self, request: HttpRequest) -> ResolverMatch:
        """Django's, with a memory of where paths lead: it tries the routes one after the other."""
        match = request.resolver_match = _resolve(request.path_info)
        return match

    async def _respond(self, request: APIRequest) -> HttpResponseBase:
        try:
            response: HttpResponseBase = await self._get_response_async(request)  # type: ignore[attr-defined]
        except GatewayError:
            raise
        except Http404:
            raise NotFound(f"Invalid URL ({request.method} {request.path})") from None
        if isinstance(response, HttpResponseNotAllowed):
            allowed = response.headers["Allow"]
            raise MethodNotAllowed(
                f"{request.method} is not supported for {request.path}; use {allowed}.", headers={"allow": allowed}
            )
        return response


@lru_cache(maxsize=1024)
def _resolve(path: str) -> ResolverMatch:
    """Raises Http404, which is not remembered."""
    return get_resolver("gateway.urls").resolve(path)


def cut_off(scope: Scope) -> None:
    """Drop the connection now: a polite close would wait for ever to write what nobody reads.

    Only our own server offers it; another one closes when the application returns without the response's end.
    """
    abort = scope.get("extensions", {}).get("gateway.abort")
    if abort is not None:
        abort["call"]()


class Watch:
    """Learns of the client's leaving: from our own server by a call, from another one by a pending `receive()`."""

    __slots__ = ("call", "pending", "receive", "scope")

    def __init__(self, call: Call, scope: Scope, receive: Receive) -> None:
        self.call, self.scope, self.receive = call, scope, receive
        self.pending: asyncio.Future[Any] | None = None

    def begin(self) -> None:
        """From the body's end on; before it, whoever reads the body is told."""
        if self.call.answered:
            return
        own = self.scope.get("extensions", {}).get("gateway.watch")
        if own is not None:
            own["call"](partial(_client_left, self.call))
            return
        self.pending = asyncio.ensure_future(self.receive())
        self.pending.add_done_callback(lambda _: _client_left(self.call))

    def end(self) -> None:
        """Off before the last body message: a server's `receive()` also returns when the response is complete."""
        self.call.answered = True
        if self.pending is not None:
            self.pending.cancel()


def _client_left(call: Call) -> None:
    """Cancel the request, so that the upstream is closed at once."""
    if call.task is not None and not call.answered and not (call.on_leave is not None and call.on_leave()):
        call.disconnected = True
        call.task.cancel()


async def _begun(
    call: Call, scope: Scope, path: str, request: APIRequest
) -> HttpResponse | idempotency.Recording | None:
    """Of a request with an Idempotency-Key the answer that there is, or leave to make one; None for another."""
    key = idempotency.key_of(call, scope["method"], path) if call.forwarded else ""
    if not key:
        return None
    asked = [call.place.path.encode(), scope.get("query_string") or b"", call.provider.encode(), request.body]
    incoming: bodies.Incoming | None = request.incoming  # type: ignore[attr-defined]
    if incoming is not None:
        asked.append(call.header(b"content-length"))  # all that is known of an upload before it is passed on
        kind = call.header(b"content-type").decode("latin-1")
        incoming.fingerprint = Fingerprint(boundary_of(kind) if is_form(kind) else b"")
    return await idempotency.begin(call, key, asked, incoming)


@lru_cache(maxsize=256)
def _field_name(name: str) -> bytes:
    return name.lower().encode("ascii")


async def _send_head(call: Call, response: HttpResponseBase, send: Send) -> None:
    headers = [(_field_name(name), value.encode("latin-1")) for name, value in response.items()]
    headers += call.headers
    headers.append((b"x-request-id", call.name.encode()))
    if call.is_anthropic:
        headers.append((b"request-id", call.name.encode()))
    headers.append((b"openai-version", API_VERSION))
    headers.append((b"openai-processing-ms", b"%d" % ((call.process.clock() - call.started) * 1000)))
    if call.origin:
        headers += cors.readable(headers, call.origin)
    call.status = response.status_code
    await send({"type": "http.response.start", "status": response.status_code, "headers": headers})


async def _send_preflight(call: Call, scope: Scope, send: Send) -> None:
    headers = cors.preflight(scope["headers"], heads.read(scope).origin)
    headers.append((b"x-request-id", call.name.encode()))
    call.status = 204
    await send({"type": "http.response.start", "status": 204, "headers": headers})
    await send({"type": "http.response.body", "body": b""})


async def _send_whole(call: Call, response: HttpResponseBase, scope: Scope, send: Send) -> None:
    assert isinstance(response, HttpResponse)
    body = response.content
    response.headers["content-length"] = str(len(body))
    await _send_head(call, response, send)
    call.bytes_out = len(body)
    if len(body) > LARGE and "gateway.write" in scope.get("extensions", {}):
        # Our own server has the end wait until little is left: what a client has not taken stays on the account.
        await send({"type": "http.response.body", "body": body, "more_body": True})
        body = b""
    await send({"type": "http.response.body", "body": body})


def tell_of_failure(scope: Scope, error: GatewayError) -> None:
    """A stream with an error in it ends as properly as any other; a server that counts failures wants to know."""
    failed = scope.get("extensions", {}).get(FAILED)
    if failed is not None:
        failed["call"](type(error).__name__, error.message)


async def _stream(call: Call, response: Live, scope: Scope, send: Send, watch: Watch) -> None:
    await _send_head(call, response, send)
    own = scope.get("extensions", {}).get("gateway.write")
    await response.run(send, own["call"] if own is not None else None)
    if response.error is not None:
        call.error = response.error
        tell_of_failure(scope, response.error)
    watch.end()
    await send({"type": "http.response.body", "body": b""})


async def _answer(call: Call, scope: Scope, response: HttpResponseBase, send: Send, watch: Watch) -> None:
    if isinstance(response, Live):
        await _finishing(response, _stream(call, response, scope, send, watch))
        return
    watch.end()
    sending = _send_whole(call, response, scope, send)
    await (_finishing(response, sending) if isinstance(response, Whole) else sending)


async def _finishing(response: Live | Whole, sending: Awaitable[None]) -> None:
    """However the sending ends, the response's own end is reached: the upstream closed, the receipt settled."""
    failed: BaseException | None = None
    try:
        await sending
    except asyncio.CancelledError as exc:
        # The tick's own end of a request that waited where nothing else looks for it: for room to write, say.
        failed = response.receipt.interrupted() or exc
        raise failed from None
    except BaseException as exc:
        failed = exc
        raise
    finally:
        await response.finish(failed)
