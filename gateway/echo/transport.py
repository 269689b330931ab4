"""The built-in provider behind httpx's transport interface, imported when it is first asked."""

from collections.abc import AsyncGenerator, AsyncIterator

import httpx

from gateway.echo import chat as echo
from gateway.echo import files as echofiles


class EchoTransport(httpx.AsyncBaseTransport):
    """The built-in provider, behind the same interface as a real one."""

    def __init__(self) -> None:
        self.shelf = echofiles.Shelf()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        assert isinstance(request.stream, httpx.AsyncByteStream)
        kind = request.headers.get("content-type", "")
        made = await echofiles.answer(self.shelf, request.method, request.url.path, kind, aiter(request.stream))
        status, headers, chunks = made or echo.answer(request.url.path, await request.aread())
        return httpx.Response(status, headers=headers, stream=Chunks(chunks))


class Chunks(httpx.AsyncByteStream):
    """An iterator as a body."""

    def __init__(self, chunks: AsyncIterator[bytes]) -> None:
        self.chunks = chunks

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self.chunks

    async def aclose(self) -> None:
        if isinstance(self.chunks, AsyncGenerator):
            await self.chunks.aclose()
