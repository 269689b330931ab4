"""The loop: poll, run the application, answer, finish what is left, poll again. One process, one asyncio loop."""

import asyncio
import gc
import json
import os
import random
import sys
from collections.abc import Awaitable, Callable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import msgspec
import structlog
from asgiref.sync import ThreadSensitiveContext

from proxysite.awslambda import events
from proxysite.awslambda.events import Payload
from proxysite.awslambda.responses import Answer, Collected, Streamed, Unfinished
from proxysite.awslambda.runtime_api import Failure, Invocation, ResponseTooLarge, RuntimeAPI, RuntimeGone

if TYPE_CHECKING:
    from proxysite.awslambda.buffered import Buffered

MARGIN = 3.0  # seconds before Lambda's deadline at which a request is asked to end
LAST = 1.0  # seconds before it at which it is cut off
AFTER = 10.0  # seconds that the work after a response may take
RESERVE = 0.3  # seconds before the deadline at which that work must be over

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]

log = structlog.get_logger("awslambda")


class Background(Protocol):
    """What the application may leave in the lifespan's state as `engine`: its work between and around requests."""

    async def thaw(self) -> None:
        """Before each invocation: the environment may have been frozen for any time."""

    async def flush(self) -> None:
        """After each response, before the next poll: what is not done now may never be."""

    def time_is_up(self, task: "asyncio.Task[Any]") -> None:
        """End that request in its own words; it is cut off soon after."""


class Site(msgspec.Struct, frozen=True):
    """What the runtime serves; nothing in it touches the network before its lifespan begins."""

    app: ASGIApp
    event: Callable[[Any], Awaitable[object]]  # answers an event that is no request
    refuse: Callable[[BaseException, Send], Awaitable[None]]  # the response of a request that raised before its own
    farewell: bytes  # the last event of a text/event-stream that breaks off


class NotStarted(Exception):
    """The application refused to start."""


class Runtime:
    """One environment: made of the loader of a site, run until the process is killed."""

    def __init__(self, load: Callable[[], Site], environ: Mapping[str, str] = os.environ) -> None:
        self.load = load
        self.address = environ["AWS_LAMBDA_RUNTIME_API"]
        self.streams = environ.get("GATEWAY_INVOKE_MODE", "response_stream").lower() != "buffered"
        self.snapshots = environ.get("AWS_LAMBDA_INITIALIZATION_TYPE") == "snap-start"
        # Set by Managed Instances, which send several events at a time to one process and never freeze it.
        self.places = int(environ.get("AWS_LAMBDA_MAX_CONCURRENCY") or 1)
        self.state: dict[str, Any] = {}

    async def run(self) -> None:
        """Raises SystemExit where the start failed or Lambda has given the environment up."""
        await self.start()
        try:
            if self.places == 1:
                # One thread for all of Django's synchronous code, so that its database connection lasts.
                async with ThreadSensitiveContext():
                    await self.work()
            else:
                await asyncio.gather(*(self.work() for _ in range(self.places)))
        except RuntimeGone as exc:
            log.error("runtime_gone", reason=str(exc))
            sys.exit(1)
        finally:
            self.lifespan.task.cancel()

    async def start(self) -> None:
        api = RuntimeAPI(self.address)
        failed = api.init_failed
        gc.disable()  # nothing that is made here is garbage; to look for it would take a tenth of the start
        try:
            self.site = self.load()
            if self.snapshots:
                await api.restored()
                failed = api.restore_failed
                random.seed()  # every environment of the snapshot would draw the same numbers
            self.lifespan = Lifespan(self.site.app, self.state)
            await self.lifespan.startup()
        except Exception as exc:
            log.exception("init_failed")
            await failed(Failure.of(exc, category="Runtime"))
            sys.exit(1)
        finally:
            gc.enable()
            api.close()
        self.background: Background | None = self.state.get("engine")
        if not self.streams:
            assert self.buffered

    @cached_property
    def buffered(self) -> "Buffered":
        # Where all responses are streams, apig-wsgi would only make the start longer.
        from proxysite.awslambda.buffered import Buffered

        return Buffered(self.collect, threads=self.places)

    async def work(self) -> None:
        api = RuntimeAPI(self.address)
        try:
            while True:
                invocation = await api.next()
                if self.places == 1:
                    os.environ["_X_AMZN_TRACE_ID"] = invocation.trace  # where AWS's libraries look for it
                await self.handle(api, invocation)
        finally:
            api.close()

    async def handle(self, api: RuntimeAPI, invocation: Invocation) -> None:
        try:
            if self.background is not None:
                await self.background.thaw()
            await self.answer(api, invocation)
        except RuntimeGone:
            raise
        except Exception as exc:
            log.exception("invocation_failed", aws_request_id=invocation.id)
            await api.fail(invocation, Failure.of(exc))
        finally:
            await self.after(invocation)

    async def after(self, invocation: Invocation) -> None:
        if self.background is None:
            return
        try:
            async with asyncio.timeout(max(0.1, min(AFTER, invocation.left - RESERVE))):
                await self.background.flush()
        except Exception:
            log.exception("work_after_response_failed", aws_request_id=invocation.id)

    async def answer(self, api: RuntimeAPI, invocation: Invocation) -> None:
        event = json.loads(invocation.body)
        form = events.payload(event)
        if form is None:
            result = await self.site.event(event)
        # A load balancer takes no streams, whatever mode the function's URL has.
        elif self.streams and form is not Payload.ALB:
            await self.stream(api, event, invocation, multi_value=form is Payload.REST)
            return
        else:
            result = await self.buffered.response(event, invocation)
        try:
            await api.respond(invocation, json.dumps(result).encode())
        except ResponseTooLarge as exc:
            log.error("response_too_large", aws_request_id=invocation.id)
            await api.fail(invocation, Failure.of(exc))

    async def stream(
        self, api: RuntimeAPI, event: Mapping[str, Any], invocation: Invocation, *, multi_value: bool
    ) -> None:
        scope, body = events.request(event)
        answer = Streamed(scope["method"], lambda head: api.stream(invocation, head), multi_value=multi_value)
        try:
            await self.request(scope, body, answer, invocation)
        except Exception as exc:
            if not answer.begun:
                raise
            log.exception("stream_broke", aws_request_id=invocation.id)
            farewell = self.site.farewell if answer.is_event_stream else b""
            try:
                await answer.end(Failure.of(exc), farewell)
            except ConnectionError:
                log.warning("stream_lost", aws_request_id=invocation.id)

    async def collect(self, event: Mapping[str, Any], invocation: Invocation) -> Collected:
        scope, body = events.request(event)
        answer = Collected(scope["method"])
        await self.request(scope, body, answer, invocation)
        return answer

    async def request(self, scope: Scope, body: bytes, answer: Answer, invocation: Invocation) -> None:
        """Run the application to its end or the deadline's. Raises what broke a response that had begun."""
        scope["state"] = self.state.copy()
        scope["extensions"]["awslambda.failed"] = {"call": answer.failed}
        given = False

        async def receive() -> dict[str, Any]:
            nonlocal given
            if not given:
                given = True
                return {"type": "http.request", "body": body, "more_body": False}
            await answer.complete.wait()
            return {"type": "http.disconnect"}

        try:
            await self.until_deadline(self.site.app(scope, receive, answer.send), invocation)
            if not answer.complete.is_set():
                raise Unfinished("the application returned before its response was complete")
        except Exception as exc:
            if answer.begun:
                raise
            log.exception("request_failed", aws_request_id=invocation.id)
            await self.site.refuse(exc, answer.send)

    async def until_deadline(self, running: Awaitable[None], invocation: Invocation) -> None:
        left = invocation.left
        margin, last = min(MARGIN, left / 4), min(LAST, left / 8)
        task = asyncio.ensure_future(running)
        try:
            await asyncio.wait([task], timeout=left - margin)
            if not task.done() and self.background is not None:
                self.background.time_is_up(task)
                await asyncio.wait([task], timeout=margin - last)
            if not task.done():
                task.cancel()
                await asyncio.wait([task], timeout=last / 4)
                raise TimeoutError("the function's time is up")
            task.result()
        finally:
            task.cancel()


class Lifespan:
    """The application's start; there is no stop, since Lambda kills without a word.

    https://asgi.readthedocs.io/en/latest/specs/lifespan.html
    """

    def __init__(self, app: ASGIApp, state: dict[str, Any]) -> None:
        self.app = app
        self.scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": state}
        self.started: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.pending = [{"type": "lifespan.startup"}]

    async def startup(self) -> None:
        """Raises NotStarted with the application's reason."""
        self.task = asyncio.ensure_future(self.app(self.scope, self.receive, self.send))
        await asyncio.wait([self.task, self.started], return_when=asyncio.FIRST_COMPLETED)
        if self.started.done():
            self.started.result()
        else:
            self.task.result()
            raise NotStarted("the application knows no lifespan")

    async def receive(self) -> dict[str, Any]:
        if self.pending:
            return self.pending.pop()
        return await asyncio.get_running_loop().create_future()  # type: ignore[no-any-return]

    async def send(self, message: dict[str, Any]) -> None:
        if self.started.done():
            return
        if message["type"] == "lifespan.startup.complete":
            self.started.set_result(None)
        else:
            self.started.set_exception(NotStarted(message.get("message", "")))
