"""One call to a provider that goes well, on real sockets: what goes out, and what comes back."""

import gzip
import zlib

import httpx
import pytest
import respx

from gateway.errors import UpstreamInvalid, UpstreamTimeout, UpstreamUnreachable
from gateway.upstream.client import Upstream
from providers.addresses import AddressPolicy
from providers.targets import Timeouts
from tests.gateway.house import LIMIT
from tests.scripted import FIN, Chunk, Pause, ScriptedUpstream, Step, head, json_answer

HEADERS = [("authorization", "Bearer sk-up"), ("content-type", "application/json")]
CHUNKED = {"transfer-encoding": "chunked"}


async def call(upstream: Upstream, url: str) -> bytes:
    reply = await upstream.send(url + "/v1/chat/completions", HEADERS, b"{}", Timeouts())
    return await reply.read()


async def works(upstream: Upstream, provider: ScriptedUpstream) -> None:
    provider.default = json_answer({"ok": True})
    assert await call(upstream, provider.url) == b'{"ok":true}'
    assert upstream.slots.free == LIMIT


def compressed(data: bytes, encoding: str = "gzip") -> list[Step]:
    return [head(200, {"content-encoding": encoding, "content-length": str(len(data))}) + data]


async def test_a_whole_answer_has_a_limit(upstream: Upstream, provider: ScriptedUpstream) -> None:
    scripts: list[list[Step]] = [[head(200, {"content-length": "1000"}), b"x" * 1000], [head(200), b"x" * 1000, FIN]]
    for script in scripts:
        provider.enqueue(script)
        reply = await upstream.send(provider.url, [], b"", Timeouts())
        with pytest.raises(UpstreamInvalid, match="larger than 999 bytes"):
            await reply.read(limit=999)
        assert upstream.slots.free == LIMIT


async def test_1xx_answers_are_passed_over(upstream: Upstream, provider: ScriptedUpstream) -> None:
    provider.enqueue([b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nlink: a\r\n\r\n", *json_answer({"n": 1})])
    assert await call(upstream, provider.url) == b'{"n":1}'


@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("POST", 204), ("POST", 304)])
async def test_an_answer_without_a_body_ends_with_its_head(
    upstream: Upstream, provider: ScriptedUpstream, method: str, status: int
) -> None:
    provider.enqueue([head(status, {"content-length": "7"} if method == "HEAD" else {})])
    reply = await upstream.send(provider.url, [], b"", Timeouts(), method=method)
    assert (reply.status, await reply.read()) == (status, b"")
    await works(upstream, provider)
    assert provider.requests[1].connection == 0


async def test_html_is_passed_on_as_it_is(upstream: Upstream, provider: ScriptedUpstream) -> None:
    provider.enqueue([head(200, {"Content-Type": "text/html", "X-A": "1", "x-a": "2"}), b"<html>", FIN])
    reply = await upstream.send(provider.url, [], b"", Timeouts())
    assert (reply.headers.get("content-TYPE"), reply.headers.get("x-a")) == ("text/html", "1, 2")
    assert (reply.headers.get("x-b"), reply.headers.get("x-b", "-")) == (None, "-")
    assert await reply.read() == b"<html>"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_an_answer(upstream: Upstream, provider: ScriptedUpstream, status: int) -> None:
    provider.enqueue([head(status, {"location": f"{provider.url}/elsewhere", "content-length": "0"})])
    reply = await upstream.send(provider.url, HEADERS, b"{}", Timeouts())
    assert (reply.status, await reply.read(), len(provider.requests)) == (status, b"", 1)


async def test_the_request_is_what_was_asked_for(
    upstream: Upstream, provider: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    stray = [
        ("Host", "evil.example.com"),
        ("Content-Length", "1"),
        ("transfer-encoding", "chunked"),
        ("Connection", "x"),
    ]
    reply = await upstream.send(provider.url + "/v1/a%2Fb?api-version=1", [*HEADERS, *stray], b"{}", Timeouts())
    await reply.read()
    request = provider.requests[0]
    assert (request.method, request.target, request.body) == ("POST", "/v1/a%2Fb?api-version=1", b"{}")
    assert request.headers == [
        ("host", f"127.0.0.1:{provider.port}"),
        *HEADERS,
        ("content-length", "2"),
        ("accept-encoding", "identity"),
    ]


@pytest.mark.parametrize("wbits", [31, 15, -15], ids=["gzip", "zlib", "raw"])
async def test_compressed_events_are_decoded_as_they_come(
    upstream: Upstream, provider: ScriptedUpstream, wbits: int
) -> None:
    packer = zlib.compressobj(9, zlib.DEFLATED, wbits)
    events = [b'data: {"n":%d}\n\n' % n for n in range(3)]
    packed = [packer.compress(event) + packer.flush(zlib.Z_SYNC_FLUSH) for event in events] + [packer.flush()]
    encoding = {"content-encoding": "gzip" if wbits == 31 else "deflate", **CHUNKED}
    gaps: list[Step] = [step for data in packed for step in (Chunk(data), Pause(0.02))]
    provider.enqueue([head(200, encoding), *gaps, Chunk()])
    reply = await upstream.send(provider.url, [], b"", Timeouts())
    assert [chunk async for chunk in reply.chunks()] == events
    await works(upstream, provider)
    assert provider.requests[1].connection == 0


async def test_compressed_members_in_a_row_and_large_answers_are_decoded(
    upstream: Upstream, provider: ScriptedUpstream
) -> None:
    large = b"".join(b"%d," % n for n in range(400_000))
    provider.enqueue(compressed(gzip.compress(b"one ") + gzip.compress(b"two")), compressed(gzip.compress(large)))
    assert await call(upstream, provider.url) == b"one two"
    assert await call(upstream, provider.url) == large
    whole_pieces = bytes(range(256)) * 256  # exactly one piece of output
    provider.enqueue(compressed(gzip.compress(whole_pieces * 4)))
    assert await call(upstream, provider.url) == whole_pieces * 4


async def test_a_mock_transport_takes_the_same_way() -> None:
    router = respx.Router()
    router.post("https://api.example.com/v1/x").mock(
        side_effect=[httpx.Response(200, json={"a": 1}), httpx.ConnectError("to 10.0.0.1"), httpx.ReadTimeout("late")]
    )
    upstream = Upstream(AddressPolicy([], False), transport=httpx.MockTransport(router.async_handler), limit=LIMIT)
    reply = await upstream.send("https://api.example.com/v1/x", HEADERS, b'{"q":1}', Timeouts())
    assert (reply.status, reply.headers.get("content-type"), await reply.read()) == (
        200,
        "application/json",
        b'{"a":1}',
    )
    assert router.calls[0].request.content == b'{"q":1}'
    for kind, sent in ((UpstreamUnreachable, False), (UpstreamTimeout, True)):
        with pytest.raises(kind) as caught:
            await upstream.send("https://api.example.com/v1/x", HEADERS, b"", Timeouts())
        assert (caught.value.sent, upstream.slots.free) == (sent, LIMIT)
        assert "10.0.0.1" not in caught.value.message


async def test_the_built_in_provider_is_answered_without_a_network(upstream: Upstream) -> None:
    body = b'{"model":"echo","messages":[{"role":"user","content":"hello"}]}'
    reply = await upstream.send("http://echo.invalid/v1/chat/completions", [], body, Timeouts())
    assert (reply.status, reply.headers.get("content-type")) == (200, "application/json")
    assert await reply.read()
    assert upstream.slots.free == LIMIT
