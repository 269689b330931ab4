"""The gateway as a site for the runtime of `proxysite.awslambda`."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread
from typing import Any

from gateway.errors import GatewayError, InternalError, Overloaded, StreamInterrupted
from gateway.replies.sse import error_event
from gateway.upstream import tls
from proxysite.awslambda.runtime import Site
from proxysite.refusals import Send
from proxysite.refusals import answer as answer_error

FAREWELL = error_event(StreamInterrupted("The stream broke off.", sent=True))


def site() -> Site:
    """Import everything that a request needs, so that none is kept waiting.

    Nothing is asked of the network but the SSM parameters that settings refer to, and no connection is left open.
    """
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "proxysite.settings")
    # The certificates take as long as all of aiohttp: they are read beside the imports, on another thread.
    certificates = Thread(target=tls.tls_context)
    certificates.start()
    with tls.without_certificates(), without_command():
        import gateway.upstream.client  # noqa: F401
    from django.conf import settings
    from django.urls import get_resolver

    from proxysite.asgi import application

    assert get_resolver("gateway.urls").url_patterns
    if not settings.GATEWAY_STATELESS:
        # The first reading of the rows opens what is sealed.
        import cryptography.hazmat.primitives.ciphers.aead  # noqa: F401
    certificates.join()
    return Site(app=application, event=event, refuse=refuse, farewell=FAREWELL)


@contextmanager
def without_command() -> Iterator[None]:
    """For imports alone: httpx brings its command line along wherever there is a click, and uvicorn has one."""
    if "httpx" in sys.modules:
        yield
        return
    sys.modules["httpx._main"] = None  # type: ignore[assignment]  # as the import system spells: there is none
    try:
        yield
    finally:
        del sys.modules["httpx._main"]


async def event(value: Any) -> object:
    """Commands and the schedule; their modules are no part of a cold start for requests."""
    from proxysite import chores

    return await chores.answer(value)


async def refuse(exc: BaseException, send: Send) -> None:
    """A request that raised before its response: an error in OpenAI's shape, without a word of the exception."""
    error: GatewayError = InternalError("The server had an error while processing your request.")
    if isinstance(exc, TimeoutError):
        error = Overloaded("The time that one request may take here is over.", code="deadline_exceeded")
    await answer_error(error, send)
