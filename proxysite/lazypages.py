"""Django's own handler, with its middleware and all paths, made when the first page is asked for or before."""

from typing import cast

from django.core.handlers.asgi import ASGIHandler
from django.urls import get_resolver

from proxysite.refusals import ASGIApp, Receive, Scope, Send


class LazyPages:
    """An ASGI application; it costs a fifth of a second to make (WhiteNoise looks at every file, and the admin)."""

    def __init__(self) -> None:
        self._handler: ASGIApp | None = None

    def load(self) -> ASGIApp:
        if self._handler is None:
            self._handler = cast("ASGIApp", ASGIHandler())
            assert get_resolver().url_patterns
        return self._handler

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.load()(scope, receive, send)
