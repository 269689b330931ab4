"""Django's own handler, with its middleware, made when the first page is asked for or before."""

from typing import cast

from django.core.handlers.asgi import ASGIHandler

from proxysite.refusals import ASGIApp, Receive, Scope, Send


class LazyPages:
    """An ASGI application; the middleware costs a tenth of a second to make (WhiteNoise looks at every file)."""

    def __init__(self) -> None:
        self._handler: ASGIApp | None = None

    def load(self) -> ASGIApp:
        if self._handler is None:
            self._handler = cast("ASGIApp", ASGIHandler())
        return self._handler

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.load()(scope, receive, send)
