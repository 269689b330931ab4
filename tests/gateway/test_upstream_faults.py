"""What can go wrong on the way to a provider, on real sockets: each fault is one of our errors, and costs no slot."""

import asyncio
import datetime
import gzip
import resource
import socket
import ssl
import time
import zlib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import pytest
import trustme
from aiohttp.http_exceptions import HttpProcessingError

from gateway.errors import (
    GatewayError,
    Overloaded,
    UpstreamBroken,
    UpstreamError,
    UpstreamInvalid,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from gateway.upstream.client import FOREIGN, Upstream, translated
from gateway.upstream.tls import tls_context
from providers.addresses import AddressPolicy
from providers.targets import Timeouts
from tests.gateway.house import LIMIT
from tests.scripted import FIN, HANG, RESET, Chunk, Pause, Script, ScriptedUpstream, Step, head, json_answer, sse

CANARY = "Bearer sk-canary"
HEADERS = [("authorization", CANARY), ("content-type", "application/json")]
CHUNKED = {"transfer-encoding": "chunked"}


async def call(upstream: Upstream, url: str, timeouts: Timeouts | None = None, body: bytes = b"{}") -> bytes:
    reply = await upstream.send(url + "/v1/chat/completions", HEADERS, body, timeouts or Timeouts())
    return await reply.read()


async def fails(upstream: Upstream, url: str, timeouts: Timeouts | None = None) -> UpstreamError:
    """The error of one call; the slots are all there afterwards, and no word of the address or the key is in it."""
    with pytest.raises(UpstreamError) as caught:
        await call(upstream, url, timeouts)
    assert upstream.slots.free == LIMIT
    assert "127.0.0.1" not in caught.value.message
    assert "canary" not in repr(caught.value) + str(caught.value.headers)
    return caught.value


async def works(upstream: Upstream, provider: ScriptedUpstream) -> None:
    provider.default = json_answer({"ok": True})
    assert await call(upstream, provider.url) == b'{"ok":true}'
    assert upstream.slots.free == LIMIT


def bomb(megabytes: int) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    return b"".join(packer.compress(bytes(2**20)) for _ in range(megabytes)) + packer.flush()


def compressed(data: bytes, encoding: str = "gzip") -> list[Step]:
    return [head(200, {"content-encoding": encoding, "content-length": str(len(data))}) + data]


BROKEN_ANSWERS: dict[str, Script] = {
    "a reset before the first byte": [RESET],
    "a FIN before the first byte": [FIN],
    "a reset in the head": [b"HTTP/1.1 200 OK\r\ncontent-", Pause(0.01), RESET],
    "a FIN in the head": [b"HTTP/1.1 200 OK\r\ncontent-", FIN],
    "a reset after the head": [head(200, {"content-length": "5"}), Pause(0.01), RESET],
    "a reset in the body": [head(200, {"content-length": "5"}), b"12", Pause(0.01), RESET],
    "a reset in a body that ends with the connection": [head(200), b"12", Pause(0.01), RESET],
    "a FIN before content-length is reached": [head(200, {"content-length": "5"}), b"12", FIN],
    "a FIN before the last chunk": [head(200, CHUNKED), Chunk(b"12"), FIN],
    "a reset between chunks": [head(200, CHUNKED), Chunk(b"12"), Pause(0.01), RESET],
    "a chunk size that is none": [head(200, CHUNKED), b"zz\r\n12\r\n", HANG],
    "a chunk longer than it says": [head(200, CHUNKED), b"2\r\n1234\r\n", HANG],
    "a header block without end": [
        b"HTTP/1.1 200 OK\r\n",
        *[b"x-%d: %b\r\n" % (i, b"a" * 900) for i in range(90)],
        HANG,
    ],
    "10 MB of one header": [b"HTTP/1.1 200 OK\r\nx: ", *[b"a" * 2**20] * 10, b"\r\n\r\n"],
    "too many headers": [b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 300 + b"\r\n", HANG],
    "a large header block in one piece": [b"HTTP/1.1 200 OK\r\n" + b"a: %b\r\n" % (b"b" * 7000) * 10 + b"\r\n", HANG],
    "HTTP/0.9": [b"hello\n", HANG],
    "HTML without a head": [b"<html>502</html>\r\n\r\n", HANG],
    "two different lengths": [b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n123", HANG],
    "a negative length": [b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n", HANG],
    "switching protocols": [b"HTTP/1.1 101 Switching\r\nupgrade: h2c\r\nconnection: upgrade\r\n\r\n", HANG],
    "1xx without end": [b"HTTP/1.1 103 Early\r\nlink: a\r\n\r\n" * 4000, HANG],
}
BROKEN_COMPRESSION: dict[str, Script] = {
    "gzip that is none": compressed(b"plainly not"),
    "gzip cut short": compressed(gzip.compress(bytes(range(256)) * 9)[:-9]),
    "a bomb": compressed(bomb(50)),
}


@pytest.mark.parametrize("script", BROKEN_ANSWERS.values(), ids=BROKEN_ANSWERS.keys())
async def test_an_answer_that_breaks_is_upstream_broken_and_was_sent(
    upstream: Upstream, provider: ScriptedUpstream, script: Script
) -> None:
    provider.enqueue(script)
    error = await fails(upstream, provider.url)
    assert (type(error), error.sent, error.status) == (UpstreamBroken, True, 502)
    assert len(provider.requests) == 1
    await provider.idle()
    await works(upstream, provider)


@pytest.mark.parametrize("script", BROKEN_COMPRESSION.values(), ids=BROKEN_COMPRESSION.keys())
async def test_compression_that_breaks_is_upstream_broken(
    upstream: Upstream, provider: ScriptedUpstream, script: Script
) -> None:
    provider.enqueue(script)
    error = await fails(upstream, provider.url)
    assert (type(error), error.sent, error.status) == (UpstreamBroken, True, 502)
    await works(upstream, provider)


@pytest.mark.parametrize("encoding", ["br", "gzip, gzip", "gzip,deflate", "zstd"])
async def test_an_encoding_that_was_not_asked_for_is_invalid(
    upstream: Upstream, provider: ScriptedUpstream, encoding: str
) -> None:
    provider.enqueue(compressed(gzip.compress(gzip.compress(b"{}")), encoding))
    error = await fails(upstream, provider.url)
    assert (type(error), error.sent) == (UpstreamInvalid, True)
    await works(upstream, provider)


async def test_a_bomb_costs_no_memory(upstream: Upstream, provider: ScriptedUpstream) -> None:
    provider.default = compressed(bomb(50))
    await fails(upstream, provider.url)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(5):
        await fails(upstream, provider.url)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before <= 8 * 1024  # KiB


async def test_a_refused_connection_was_not_sent(upstream: Upstream, provider: ScriptedUpstream) -> None:
    await provider.stop()
    error = await fails(upstream, provider.url)
    assert (type(error), error.sent) == (UpstreamUnreachable, False)
    assert error.message == "The provider refused the connection or could not be reached."


async def test_a_name_that_does_not_exist_was_not_sent(upstream: Upstream, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*args: object, **kwargs: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    error = await fails(upstream, "https://api.example.com")
    assert (type(error), error.sent) == (UpstreamUnreachable, False)
    assert error.message == "The provider's host name could not be found."


def resolves_to(*addresses: str) -> Callable[..., list[Any]]:
    def getaddrinfo(host: str, port: int, *args: object, **kwargs: object) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (ip, port)) for ip in addresses]

    return getaddrinfo


async def test_of_mixed_addresses_only_a_permitted_one_is_called(
    provider: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    touched = 0

    def count(*streams: object) -> None:
        nonlocal touched
        touched += 1

    refused = await asyncio.start_server(count, "127.0.0.2", provider.port)
    upstream = Upstream(AddressPolicy([f"127.0.0.1:{provider.port}"], development=False), limit=LIMIT)
    monkeypatch.setattr(socket, "getaddrinfo", resolves_to("127.0.0.2", "127.0.0.1"))
    assert await call(upstream, f"http://api.example.com:{provider.port}") == b"{}"
    assert provider.requests[0].header("host") == f"api.example.com:{provider.port}"
    monkeypatch.setattr(socket, "getaddrinfo", resolves_to("127.0.0.2"))
    for url in (f"http://rebound.example.com:{provider.port}", f"http://127.0.0.2:{provider.port}"):
        error = await fails(upstream, url)
        assert (type(error), error.sent) == (UpstreamUnreachable, False)
        assert error.message == "The provider's address is not one that may be called."
    assert touched == 0
    await upstream.aclose()
    refused.close()


@pytest.mark.parametrize(
    "host", ["169.254.169.254", "10.0.0.1", "[::1]", "[::ffff:a9fe:a9fe]", "127.1", "2130706433", "0x7f.1"]
)
async def test_a_literal_is_checked_too(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", resolves_to("127.0.0.1"))
    upstream = Upstream(AddressPolicy([], development=False), limit=LIMIT)
    for scheme in ("http", "https"):
        error = await fails(upstream, f"{scheme}://{host}:9")
        assert (type(error), error.sent) == (UpstreamUnreachable, False)
    await upstream.aclose()


async def test_a_name_permitted_over_https_is_looked_at_again_for_http(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", resolves_to("8.8.8.8"))
    upstream = Upstream(AddressPolicy([], development=False), limit=LIMIT)
    blink = Timeouts(connect=0.05)
    assert "may be called" not in (await fails(upstream, "https://api.example.com:9", blink)).message
    assert "may be called" in (await fails(upstream, "http://api.example.com:9", blink)).message
    await upstream.aclose()


@asynccontextmanager
async def full_backlog() -> AsyncIterator[str]:
    """An address that neither accepts nor refuses."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(server.getsockname())
        await asyncio.sleep(0.01)
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        for filler in fillers:
            filler.close()


async def test_a_connection_that_takes_too_long_is_a_timeout_that_was_not_sent(upstream: Upstream) -> None:
    async with full_backlog() as url, ScriptedUpstream() as silent:
        # Over TLS the time runs until the handshake is done; this one never says hello.
        for address in (url, silent.url.replace("http:", "https:")):
            began = time.monotonic()
            error = await fails(upstream, address, Timeouts(connect=0.1))
            assert (type(error), error.sent, error.status) == (UpstreamTimeout, False, 504)
            assert 0.1 <= time.monotonic() - began < 0.5


async def test_a_look_up_that_hangs_is_a_timeout(upstream: Upstream, monkeypatch: pytest.MonkeyPatch) -> None:
    def hang(*args: object, **kwargs: object) -> list[Any]:
        time.sleep(0.3)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    error = await fails(upstream, "https://api.example.com", Timeouts(connect=0.05))
    assert (type(error), error.sent) == (UpstreamTimeout, False)


def expired(ca: trustme.CA) -> trustme.LeafCert:
    return ca.issue_cert("127.0.0.1", not_after=datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC))


CERTIFICATES: dict[str, Callable[[trustme.CA], trustme.LeafCert]] = {
    "self-signed": lambda _: trustme.CA().issue_cert("127.0.0.1"),
    "wrong host": lambda ca: ca.issue_cert("other.example.com"),
    "expired": expired,
}


def tls(ca: trustme.CA, issue: Callable[[trustme.CA], trustme.LeafCert]) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    issue(ca).configure_cert(server)
    client = ssl.create_default_context()
    ca.configure_trust(client)
    return server, client


@pytest.mark.parametrize("issue", CERTIFICATES.values(), ids=CERTIFICATES.keys())
async def test_a_bad_certificate_never_sees_the_key(issue: Callable[[trustme.CA], trustme.LeafCert]) -> None:
    server, client = tls(trustme.CA(), issue)
    upstream = Upstream(AddressPolicy([], development=True), limit=LIMIT, tls=lambda: client)
    async with ScriptedUpstream(tls=server) as provider:
        error = await fails(upstream, provider.url)
        assert (type(error), error.sent) == (UpstreamUnreachable, False)
        assert error.message == "The provider's certificate is not valid."
        assert provider.requests == []
    await upstream.aclose()


async def test_a_good_certificate_is_used_and_the_connection_kept() -> None:
    server, client = tls(trustme.CA(), lambda ca: ca.issue_cert("127.0.0.1"))
    upstream = Upstream(AddressPolicy([], development=True), limit=LIMIT, tls=lambda: client)
    async with ScriptedUpstream(tls=server) as provider:
        for _ in range(3):
            assert await call(upstream, provider.url) == b"{}"
        assert [request.connection for request in provider.requests] == [0, 0, 0]
        assert provider.requests[0].header("authorization") == CANARY
        await upstream.aclose()
        await provider.idle()


async def test_the_environment_adds_no_trust(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ca = trustme.CA()
    ca.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    server, _ = tls(ca, lambda ca: ca.issue_cert("127.0.0.1"))
    context = tls_context.__wrapped__()
    upstream = Upstream(AddressPolicy([], development=True), limit=LIMIT, tls=lambda: context)
    async with ScriptedUpstream(tls=server) as provider:
        assert (await fails(upstream, provider.url)).message == "The provider's certificate is not valid."
        assert provider.requests == []
    await upstream.aclose()


async def test_plain_http_behind_https_is_no_secure_connection(upstream: Upstream) -> None:
    async def shout(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(shout, "127.0.0.1", 0)
    error = await fails(upstream, f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    assert (type(error), error.sent) == (UpstreamUnreachable, False)
    server.close()


@pytest.mark.parametrize("last", [RESET, FIN])
async def test_a_kept_connection_that_dies_unanswered_is_tried_once_afresh(
    upstream: Upstream, provider: ScriptedUpstream, last: Step
) -> None:
    await works(upstream, provider)
    provider.enqueue([last], json_answer({"second": True}))
    assert await call(upstream, provider.url, body=b'{"a":1}') == b'{"second":true}'
    assert [(request.connection, request.body) for request in provider.requests[1:]] == [
        (0, b'{"a":1}'),
        (1, b'{"a":1}'),
    ]
    provider.enqueue([last], [last], json_answer({}))
    error = await fails(upstream, provider.url)
    assert (type(error), error.sent) == (UpstreamBroken, True)
    assert len(provider.requests) == 5


async def test_a_provider_that_went_away_since_the_last_call_was_not_sent_to(
    upstream: Upstream, provider: ScriptedUpstream
) -> None:
    await works(upstream, provider)
    assert provider.server is not None
    provider.server.close()
    provider.enqueue([RESET])
    error = await fails(upstream, provider.url)
    assert (type(error), error.sent) == (UpstreamUnreachable, False)


async def test_a_kept_connection_that_dies_after_its_first_byte_is_not_tried_again(
    upstream: Upstream, provider: ScriptedUpstream
) -> None:
    await works(upstream, provider)
    provider.enqueue([b"H", Pause(0.01), RESET])
    assert (await fails(upstream, provider.url)).sent is True
    assert len(provider.requests) == 2


async def test_the_fresh_try_passes_over_all_kept_connections(upstream: Upstream, provider: ScriptedUpstream) -> None:
    provider.default = [Pause(0.02), *json_answer({})]
    await asyncio.gather(*(call(upstream, provider.url) for _ in range(3)))
    provider.enqueue([RESET], json_answer({"fresh": True}))
    assert await call(upstream, provider.url) == b'{"fresh":true}'
    assert [request.connection for request in provider.requests[3:]] == [provider.requests[3].connection, 3]


async def test_a_second_answer_that_nobody_asked_for_is_never_taken_for_the_next(
    upstream: Upstream, provider: ScriptedUpstream
) -> None:
    twice = json_answer({"n": 1}) + json_answer({"n": "smuggled"})
    provider.enqueue([b"".join(step for step in twice if isinstance(step, bytes))])
    provider.enqueue([*json_answer({"n": 2}), Pause(0.01), *json_answer({"n": "late"})], json_answer({"n": 3}))
    answers = []
    for _ in range(3):
        answers.append(await call(upstream, provider.url))
        await asyncio.sleep(0.03)
    assert answers == [b'{"n":1}', b'{"n":2}', b'{"n":3}']
    assert [request.connection for request in provider.requests] == [0, 1, 2]


@pytest.mark.parametrize("value", ["a\r\nx-evil: 1", "a\nb", "a\rb", "a\0b"])
async def test_a_line_break_in_a_header_goes_nowhere(
    upstream: Upstream, provider: ScriptedUpstream, value: str
) -> None:
    with pytest.raises(UpstreamUnreachable) as caught:
        await upstream.send(provider.url, [("authorization", value)], b"", Timeouts())
    assert (caught.value.sent, provider.connections, upstream.slots.free) == (False, [], LIMIT)


@pytest.mark.parametrize(
    "url", ["ftp://a.example.com/", "http://", "no scheme", "http://a\n.example.com", "http://[::1"]
)
async def test_an_address_that_is_none_is_unreachable(upstream: Upstream, url: str) -> None:
    with pytest.raises(UpstreamUnreachable) as caught:
        await upstream.send(url, [], b"", Timeouts())
    assert (caught.value.sent, upstream.slots.free) == (False, LIMIT)


async def test_when_all_slots_are_taken_the_wait_ends_in_503(upstream: Upstream, provider: ScriptedUpstream) -> None:
    provider.default = [HANG]
    calls = [asyncio.ensure_future(call(upstream, provider.url)) for _ in range(LIMIT)]
    await asyncio.sleep(0.02)
    with pytest.raises(Overloaded) as caught:
        await call(upstream, provider.url, Timeouts(pool=0.05))
    assert (caught.value.status, caught.value.code) == (503, "upstream_pool_exhausted")
    assert caught.value.headers == {"retry-after": "1"}
    patient = asyncio.ensure_future(call(upstream, provider.url))
    await asyncio.sleep(0.01)
    provider.default = json_answer({})
    calls.pop().cancel()
    assert await patient == b"{}"
    for task in calls:
        task.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    assert upstream.slots.free == LIMIT


async def test_a_cancelled_call_closes_its_connection_whatever_it_waits_for(
    upstream: Upstream, provider: ScriptedUpstream
) -> None:
    moments: list[Sequence[Step]] = [
        [HANG],
        [b"HTTP/1.1 200 OK\r\n", HANG],
        [head(200, {"content-length": "9"}), HANG],
        [*sse({"n": 1}, done=False)[:-1], HANG],
    ]
    for script in moments:
        provider.enqueue(script)
        task = asyncio.ensure_future(call(upstream, provider.url))
        await asyncio.sleep(0.03)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert upstream.slots.free == LIMIT
        await provider.idle()
    assert len(provider.requests) == len(moments)
    await works(upstream, provider)


async def test_a_call_cancelled_while_it_connects_gives_its_slot_back(upstream: Upstream) -> None:
    async with full_backlog() as url, ScriptedUpstream() as silent:
        for address in (url, silent.url.replace("http:", "https:")):
            task = asyncio.ensure_future(call(upstream, address))
            await asyncio.sleep(0.03)
            assert upstream.slots.free == LIMIT - 1
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert upstream.slots.free == LIMIT


async def test_a_reply_left_unread_drops_its_connection_in_the_same_turn(
    upstream: Upstream, provider: ScriptedUpstream
) -> None:
    provider.enqueue(sse({"n": 1}, {"n": 2}, gap=0.01), json_answer({}))
    reply = await upstream.send(provider.url, [], b"", Timeouts())
    async for chunk in reply.chunks():
        assert chunk == b'data: {"n":1}\n\n'
        break
    await reply.aclose()
    await reply.aclose()
    assert upstream.slots.free == LIMIT
    await provider.idle(within=0.2)
    await call(upstream, provider.url)
    assert [request.connection for request in provider.requests] == [0, 1]


async def test_a_connection_whose_request_is_not_out_yet_is_not_kept(
    upstream: Upstream, provider: ScriptedUpstream
) -> None:
    async def early(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too Large\r\ncontent-length: 2\r\n\r\n{}")
        await closed.wait()
        writer.transport.abort()

    closed = asyncio.Event()
    server = await asyncio.start_server(early, "127.0.0.1", 0, limit=1024)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    reply = await upstream.send(url, [], bytes(30 * 2**20), Timeouts())
    assert (reply.status, await reply.read(), upstream.slots.free) == (413, b"{}", LIMIT)
    assert reply._stream.connection is None  # type: ignore[attr-defined]
    closed.set()
    server.close()


# Where what comes out of a call is defined; whatever else a test run has imported derives from OSError too.
THEIRS = frozenset({"builtins", "socket", "ssl", "httpx", "aiohttp", "asyncio", "concurrent"})


def descendants(kind: type[BaseException]) -> set[type[BaseException]]:
    theirs = {child for child in kind.__subclasses__() if child.__module__.partition(".")[0] in THEIRS}
    return {kind}.union(*(descendants(child) for child in theirs))


def made(kind: type[BaseException]) -> BaseException:
    """An instance, whatever its constructor wants."""
    return kind.__new__(kind)


@pytest.mark.parametrize("sent", [False, True])
@pytest.mark.parametrize("root", [httpx.TransportError, aiohttp.ClientError, HttpProcessingError, OSError])
def test_every_foreign_error_has_a_decided_error_of_ours(root: type[BaseException], sent: bool) -> None:
    kinds = descendants(root)
    assert len(kinds) > 3
    for kind in kinds:
        assert issubclass(kind, FOREIGN), kind
        exc = made(kind)
        if isinstance(exc, aiohttp.ClientConnectorError):
            exc._os_error = OSError()
        error = translated(exc, sent=sent)
        assert isinstance(error, GatewayError), kind
        assert isinstance(error, (UpstreamUnreachable, UpstreamBroken, UpstreamTimeout, Overloaded)), kind
        if isinstance(error, UpstreamUnreachable):
            assert error.sent is False, kind
        if isinstance(error, UpstreamBroken):
            assert error.sent is True, kind


@pytest.mark.parametrize(
    ("exc", "sent", "kind", "was_sent"),
    [
        (httpx.ConnectTimeout(""), False, UpstreamTimeout, False),
        (httpx.ReadTimeout(""), False, UpstreamTimeout, True),
        (httpx.ConnectError(""), True, UpstreamUnreachable, False),
        (httpx.ReadError(""), False, UpstreamBroken, True),
        (httpx.RemoteProtocolError(""), False, UpstreamBroken, True),
        (aiohttp.ServerDisconnectedError(), True, UpstreamBroken, True),
        (aiohttp.ConnectionTimeoutError(), False, UpstreamTimeout, False),
        (aiohttp.ClientPayloadError(), True, UpstreamBroken, True),
        (ConnectionResetError(), False, UpstreamUnreachable, False),
        (ConnectionResetError(), True, UpstreamBroken, True),
        (TimeoutError(), False, UpstreamTimeout, False),
        (ssl.SSLError(), False, UpstreamUnreachable, False),
    ],
)
def test_which_error_says_what(exc: BaseException, sent: bool, kind: type[UpstreamError], was_sent: bool) -> None:
    error = translated(exc, sent=sent)
    assert isinstance(error, UpstreamError)
    assert (type(error), error.sent) == (kind, was_sent)
