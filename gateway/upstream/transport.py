"""HTTP/1.1 to providers: httpx's transport interface over aiohttp's connector.

It does one exchange: it looks up the name, checks every address, connects, writes the request, reads the head, and
hands out the body as it comes. It has no pool limit, no decoding and no deadline but that of connecting
(client.py and the engine have). What goes wrong comes out raw; `request.extensions["sent"]` says whether a
byte was written.
"""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from functools import lru_cache, partial
from ipaddress import ip_address
from typing import cast

import httpx
from aiohttp import (
    ClientConnectionError,
    ClientRequest,
    ClientTimeout,
    TCPConnector,
    ThreadedResolver,
)
from aiohttp.abc import ResolveResult
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection
from aiohttp.streams import StreamReader
from yarl import URL

from gateway.pouring import Poured, Pouring, Source
from gateway.upstream.tls import tls_context
from gateway.upstream.wire import Pipe, Sink, Wire
from providers.addresses import AddressPolicy

IDLE = 15.0  # seconds that an unused connection is kept
MAX_ORIGINS = 1024
ONE_WRITE = 64 * 1024  # bytes: up to here copying costs less than a second system call
# Where an answer's fields are: httpx would take each of them apart, and they are read once (client.Fields).
RAW_HEADERS = "raw_headers"
OWN_FIELDS = frozenset({b"host", b"connection", b"content-length", b"transfer-encoding", b"accept-encoding"})


class AddressNotAllowed(OSError):
    """The policy permits none of the addresses that the name has."""


class CheckedResolver(ThreadedResolver):
    """Looks a name up and leaves only the addresses that the policy permits; the connector sees no others."""

    def __init__(self, policy: AddressPolicy, scheme: str) -> None:
        super().__init__()
        self.policy = policy
        self.scheme = scheme

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        found = await super().resolve(host, port, family)
        allowed = [item for item in found if self.policy.permits(item["host"], port, self.scheme, host)]
        if not allowed:
            raise AddressNotAllowed
        return allowed


class Connector(TCPConnector):
    """A connector for one scheme, so that a name permitted over https is looked at again for http. It sets no limit."""

    def __init__(self, policy: AddressPolicy, scheme: str) -> None:
        super().__init__(resolver=CheckedResolver(policy, scheme), limit=0, keepalive_timeout=IDLE)
        # aiohttp has no public way to choose the protocol's class.
        self._factory = cast("partial[ResponseHandler]", partial(Wire, loop=self._loop))


class Origin:
    """What is the same for all requests to one scheme, host and port."""

    __slots__ = ("connector", "host", "request")

    def __init__(self, connector: Connector, request: ClientRequest, host: bytes) -> None:
        self.connector = connector
        self.host = host  # as its requests name it: httpx puts that together anew each time
        self.request = request  # never sent: it tells the connector where to connect

    async def connect(self, seconds: float | None, *, fresh: bool = False) -> tuple[Connection, Wire]:
        """A connection that is ready for a request; a `fresh` one has never been used."""
        while True:
            connection = await self.connector.connect(self.request, [], _connect_timeout(seconds))
            wire = connection.protocol
            assert isinstance(wire, Wire)
            # What came unasked while it lay idle would be taken for the next answer.
            if wire.used and (fresh or wire.should_close):
                drop(connection)
                continue
            return connection, wire


@lru_cache(maxsize=64)
def _connect_timeout(seconds: float | None) -> ClientTimeout:
    return ClientTimeout(connect=seconds, ceil_threshold=float("inf"))


def drop(connection: Connection) -> None:
    """Close at once: neither unsent bytes nor TLS's farewell are waited for."""
    if (wire := connection.protocol) is not None:
        wire.abort()
        connection.close()


class Body(httpx.AsyncByteStream):
    """The body as it comes from the socket. Read to its end, the connection is kept; closed before, it is dropped."""

    __slots__ = ("connection", "payload", "pouring")

    def __init__(self, connection: Connection, payload: StreamReader, pouring: Pouring | None = None) -> None:
        self.connection: Connection | None = connection
        self.payload = payload
        self.pouring = pouring  # a request that may not be out yet
        if payload.at_eof():
            self.close()

    def pipe(self, sink: Sink) -> None:
        """Offer what comes to `sink` as long as the reader waits; what it does not take, by False, is read as usual."""
        if self.connection is not None and type(self.payload) is StreamReader:
            self.payload.__class__ = Pipe
            cast("Wire", self.connection.protocol).sink = sink

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self  # a generator costs each answer three times as much

    async def __anext__(self) -> bytes:
        data = await self.payload.readany()
        if not data or self.payload.at_eof():
            self.close()
        if not data:
            raise StopAsyncIteration
        return data

    def close(self) -> None:
        """Keep or drop the connection; never waits, and may be called again."""
        connection, self.connection = self.connection, None
        if connection is None:
            return
        if connection.protocol is not None:
            cast("Wire", connection.protocol).sink = None
        transport = connection.transport
        whole = self.payload.at_eof() and self.payload.exception() is None
        if (pouring := self.pouring) is not None and not pouring.whole:
            pouring.stop()
            whole = False
        # An answer may come before the request is out; what is left of that must not go before the next one.
        if whole and transport is not None and transport.get_write_buffer_size() == 0:
            connection.release()
        else:
            drop(connection)

    async def aclose(self) -> None:
        self.close()


class Whole(httpx.ByteStream):
    """A request's body that is in memory already: httpx need not be asked to read it."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.data = data


class AiohttpTransport(httpx.AsyncBaseTransport):
    """One per event loop. Redirects, proxies, netrc and cookies do not exist here."""

    def __init__(self, policy: AddressPolicy, *, tls: Callable[[], ssl.SSLContext] = tls_context) -> None:
        self.policy = policy
        self.tls = tls
        self.connectors: dict[str, Connector] = {}
        self.origins: dict[tuple[bytes, bytes, int | None], Origin] = {}

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Raises what aiohttp and the socket raise; see gateway.upstream.client.translated."""
        url = request.url
        key = (url.raw_scheme, url.raw_host, url.port)
        origin = self.origins.get(key) or self._origin(key, url.netloc)
        stream = request.stream
        body: bytes | Source
        length: int | None
        if isinstance(stream, Whole):
            body, length = stream.data, len(stream.data)
        elif isinstance(stream, Poured):
            body, length = stream.source, stream.source.length
        else:
            body = await request.aread()
            length = len(body)
        head = _head(request, origin.host, length)
        seconds = request.extensions["timeout"]["connect"]
        connection, wire = await origin.connect(seconds)
        reused = wire.used
        try:
            return await self._exchange(connection, wire, request, head, body)
        except (ClientConnectionError, ConnectionError):
            # The provider closed a kept connection just when it was used again: that says nothing about the request.
            if not reused or wire.received or not (isinstance(body, bytes) or body.restarts):
                raise
        request.extensions["sent"] = False
        connection, wire = await origin.connect(seconds, fresh=True)
        return await self._exchange(connection, wire, request, head, body)

    async def _exchange(
        self, connection: Connection, wire: Wire, request: httpx.Request, head: bytes, body: bytes | Source
    ) -> httpx.Response:
        pouring: Pouring | None = None
        try:
            wire.expect(request.method)
            transport = wire.transport
            if transport is None:
                raise ConnectionResetError
            request.extensions["sent"] = True
            if not isinstance(body, bytes):
                transport.write(head)
                pouring = Pouring(wire, body)
            elif len(body) <= ONE_WRITE:
                transport.write(head + body)
            else:
                transport.write(head)
                transport.write(body)
            message, payload = await wire.head()
        except BaseException:
            if pouring is not None:
                pouring.stop()
            drop(connection)
            raise
        if pouring is not None and message.code >= 300:
            pouring.stop()  # refused before all of it was read: the rest is not wanted
        body_of_answer = Body(connection, payload, pouring)
        return httpx.Response(message.code, stream=body_of_answer, extensions={RAW_HEADERS: message.raw_headers})

    def _origin(self, key: tuple[bytes, bytes, int | None], netloc: bytes) -> Origin:
        scheme, host = key[0].decode("ascii"), key[1].decode("ascii")
        if scheme not in ("http", "https") or not host:
            raise httpx.UnsupportedProtocol("not an http address")
        port = key[2] or (443 if scheme == "https" else 80)
        # The connector asks its resolver for names only.
        if _is_literal(host) and not self.policy.permits(host, port, scheme):
            raise AddressNotAllowed
        connector = self.connectors.get(scheme)
        if connector is None:
            connector = self.connectors[scheme] = Connector(self.policy, scheme)
        url = URL.build(scheme=scheme, host=host, port=port)
        request = ClientRequest(
            "GET", url, loop=asyncio.get_running_loop(), ssl=self.tls() if scheme == "https" else True
        )
        if len(self.origins) >= MAX_ORIGINS:
            self.origins.clear()
        origin = self.origins[key] = Origin(connector, request, netloc)
        return origin

    async def aclose(self) -> None:
        """Drop every connection, those in use too."""
        for connector in self.connectors.values():
            await connector.close(abort_ssl=True)
        self.connectors.clear()
        self.origins.clear()


def _is_literal(host: str) -> bool:
    try:
        ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True


def _head(request: httpx.Request, host: bytes, length: int | None) -> bytes:
    """The request's first lines: `Host` as its URL has it, and nothing that speaks for the connection from the caller.

    `length` None: the body is sent chunked.
    """
    lines = [b"%b %b HTTP/1.1\r\nhost: %b" % (request.method.encode(), request.url.raw_path, host)]
    lines += [b"%b: %b" % (name, value) for name, value in request.headers.raw if name.lower() not in OWN_FIELDS]
    if length is None:
        lines.append(b"transfer-encoding: chunked")
    elif length or request.method not in ("GET", "HEAD"):
        lines.append(b"content-length: %d" % length)
    lines.append(b"accept-encoding: identity\r\n\r\n")
    head = b"\r\n".join(lines)
    breaks = len(lines) + 2
    if head.count(b"\n") != breaks or head.count(b"\r") != breaks or b"\0" in head:
        raise httpx.LocalProtocolError("a header holds a line break")
    return head
