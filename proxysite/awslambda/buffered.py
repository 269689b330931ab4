"""Buffered mode, for front doors that cannot stream: apig-wsgi around a WSGI callable that runs the ASGI application.

The callable hands the event to the runtime's own loop, so that connections and background are the same as in streams.
"""

import asyncio
import contextvars
from collections.abc import Awaitable, Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import product
from typing import Any

from apig_wsgi import make_lambda_handler

from proxysite.awslambda.responses import Collected, Headers
from proxysite.awslambda.runtime_api import Invocation

Run = Callable[[Mapping[str, Any], Invocation], Awaitable[Collected]]


class Buffered:
    """Made on the loop on which `run` is to run. `threads`: how many invocations may be under way."""

    def __init__(self, run: Run, *, threads: int) -> None:
        self._run = run
        self._loop = asyncio.get_running_loop()
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="buffered")
        self._handler = make_lambda_handler(self._bridge, binary_support=True)

    async def response(self, event: Mapping[str, Any], invocation: Invocation) -> dict[str, Any]:
        """The response as API Gateway, a Function URL or a load balancer reads it."""
        context = contextvars.copy_context()
        work = partial(context.run, self._handler, dict(event), invocation)
        return await self._loop.run_in_executor(self._threads, work)

    def _bridge(self, environ: dict[str, Any], start_response: Callable[[str, Headers], object]) -> Iterable[bytes]:
        event, invocation = environ["apig_wsgi.full_event"], environ["apig_wsgi.context"]

        async def run() -> Collected:
            return await self._run(event, invocation)

        answer = asyncio.run_coroutine_threadsafe(run(), self._loop).result()
        several = environ["apig_wsgi.multi_value_headers"] or event.get("version") == "2.0"
        start_response(f"{answer.status} -", answer.headers if several else spelled(answer.headers))
        return [answer.body]


def spelled(headers: Headers) -> Headers:
    """Each cookie under another spelling of the name: a response of single values has room for one a spelling."""
    spellings = ("".join(letters) + "-cookie" for letters in product(*((c, c.upper()) for c in "set")))
    return [(next(spellings, name) if name == "set-cookie" else name, value) for name, value in headers]
