"""HTTP/1.1 at the socket: caps, deadlines, framing (S40), slow clients (R20)."""

import asyncio
import contextlib
import time

import pytest

from proxysite.protocol import GatewayProtocol
from proxysite.refusals import Receive, Scope, Send
from tests.proxysite.wire import Answer, answers, rest, say, serving

HEAD = b"POST /v1/x HTTP/1.1\r\nHost: a\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
CLOSE = b"GET /second HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"


class Recorder:
    """Answers each request with its path and the length of its body, and keeps what it saw."""

    def __init__(self) -> None:
        self.scopes: list[Scope] = []
        self.bodies: list[bytes] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scopes.append(scope)
        body = b""
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message["body"]
            more = message["more_body"]
        self.bodies.append(body)
        text = f"{scope['path']} {len(body)}".encode()
        await send(
            {"type": "http.response.start", "status": 200, "headers": [(b"content-length", str(len(text)).encode())]}
        )
        await send({"type": "http.response.body", "body": text})


class Quick(GatewayProtocol):
    head_seconds = 0.3
    linger_seconds = 0.1


async def one(port: int, data: bytes) -> Answer:
    (answer,) = answers(await say(port, data))
    return answer


BAD = {
    "CL and TE": HEAD + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "TE and CL": HEAD + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    "two TE": HEAD + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
    "identity, chunked": HEAD + b"Transfer-Encoding: identity, chunked\r\n\r\n0\r\n\r\n",
    "chunked, chunked": HEAD + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
    "xchunked": HEAD + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "gzip, chunked": HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "space before colon": HEAD + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    "vertical tab": HEAD + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
    "TE in 1.0": b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "obs-fold": HEAD + b"X: a\r\n b\r\n\r\n",
    "folded TE": HEAD + b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
    "bare CR": HEAD + b"X: a\rb\r\n\r\n",
    "bare LF": HEAD + b"X: a\nY: b\r\n\r\n",
    "bare LF throughout": b"GET / HTTP/1.1\nHost: a\n\n",
    "NUL": HEAD + b"X: a\0b\r\n\r\n",
    "two CL": HEAD + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
    "two equal CL": HEAD + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
    "CL list": HEAD + b"Content-Length: 5, 5\r\n\r\nhello",
    "CL +5": HEAD + b"Content-Length: +5\r\n\r\nhello",
    "CL 0x5": HEAD + b"Content-Length: 0x5\r\n\r\nhello",
    "CL -5": HEAD + b"Content-Length: -5\r\n\r\nhello",
    "CL 5 5": HEAD + b"Content-Length: 5 5\r\n\r\nhello",
    "CL empty": HEAD + b"Content-Length: \r\n\r\nhello",
    "CL overflow": HEAD + b"Content-Length: 99999999999999999999\r\n\r\nhello",
    "chunk 0x5": CHUNKED + b"0x5\r\nhello\r\n0\r\n\r\n",
    "chunk +5": CHUNKED + b"+5\r\nhello\r\n0\r\n\r\n",
    "chunk with space": CHUNKED + b"5 \r\nhello\r\n0\r\n\r\n",
    "chunk overflow": CHUNKED + b"fffffffffffffffff\r\nhello\r\n0\r\n\r\n",
    "chunk size with LF": CHUNKED + b"5\nhello\r\n0\r\n\r\n",
    "bad chunk end": CHUNKED + b"5\r\nhelloX\r\n0\r\n\r\n",
    "chunk end with LF": CHUNKED + b"5\r\nhello\n0\r\n\r\n",
    "64 KiB chunk extension": CHUNKED + b"5;" + b"a" * 65536 + b"\r\nhello\r\n0\r\n\r\n",
    "64 KiB of trailers": CHUNKED + b"5\r\nhello\r\n0\r\n" + b"X: %s\r\n" % (b"a" * 1000) * 64 + b"\r\n",
    "CL in a trailer": CHUNKED + b"5\r\nhello\r\n0\r\nContent-Length: 7\r\n\r\n",
    "two Hosts": b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    "no Host": b"GET / HTTP/1.1\r\nX: a\r\n\r\n",
    "no name": HEAD + b": x\r\n\r\n",
    "HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/1.2": b"GET / HTTP/1.2\r\nHost: a\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "path of raw bytes": b"GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n",
}


@pytest.mark.parametrize("name", BAD)
async def test_s40_what_can_be_read_in_two_ways_gets_400_and_the_connection_closes(name: str) -> None:
    app = Recorder()
    async with serving(app, protocol=Quick) as (port, _):
        raw = await say(port, BAD[name] + CLOSE)
    (answer,) = answers(raw)
    assert answer.status == 400
    assert answer.headers["connection"] == "close"
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-request-id"].startswith("req_")
    assert set(answer.error) == {"message", "type", "param", "code"}
    assert answer.error["type"] == "invalid_request_error"
    assert app.bodies == []


@pytest.mark.parametrize("step", [1, 7, 1000])
async def test_s40_the_corpus_gets_the_same_answer_in_small_pieces(step: int) -> None:
    async def trickle(port: int, data: bytes) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        reading = asyncio.create_task(rest(reader))
        with contextlib.suppress(ConnectionError):
            for at in range(0, len(data), step):
                writer.write(data[at : at + step])
                await asyncio.sleep(0)
        raw = await reading
        writer.close()
        return raw

    app = Recorder()
    short = {name: data for name, data in BAD.items() if len(data) < 1000}
    async with serving(app, protocol=Quick) as (port, _):
        got = {name: [a.status for a in answers(await trickle(port, data))] for name, data in short.items()}
    assert got == {name: [400] for name in short}
    assert app.bodies == []


async def test_a_good_request_is_passed_on_with_its_path_query_and_body() -> None:
    app = Recorder()
    async with serving(app) as (port, _):
        request = b"POST /a%20b/%2f?q=1 HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello"
        answer = await one(port, request)
    assert (answer.status, answer.body) == (200, b"/a b// 5")
    scope = app.scopes[0]
    assert (scope["path"], scope["raw_path"], scope["query_string"]) == ("/a b//", b"/a%20b/%2f", b"q=1")
    assert scope["method"] == "POST"
    assert (b"host", b"a") in scope["headers"]
    assert "server" not in answer.headers


async def test_a_chunked_body_arrives_whole_and_its_trailers_do_not_join_the_head() -> None:
    app = Recorder()
    small = b"".join(b"1\r\n%c\r\n" % (97 + at % 26) for at in range(20_000))
    head = CHUNKED.replace(b"Host: a\r\n", b"Host: a\r\nConnection: close\r\n")
    async with serving(app) as (port, _):
        answer = await one(port, head + small + b"0\r\nAuthorization: Bearer x\r\n\r\n")
    assert answer.body == b"/v1/x 20000"
    assert [name for name, _ in app.scopes[0]["headers"]] == [b"host", b"connection", b"transfer-encoding"]


async def test_keep_alive_serves_one_request_after_the_other() -> None:
    app = Recorder()
    async with serving(app) as (port, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(3):
            writer.write(HEAD + b"Content-Length: 5\r\n\r\nhello")
            assert await reader.readuntil(b"/v1/x 5")
        writer.close()
    assert app.bodies == [b"hello"] * 3


async def test_a_pipelined_request_is_not_answered_and_the_connection_closes() -> None:
    app = Recorder()
    async with serving(app) as (port, _):
        raw = await say(port, HEAD + b"Content-Length: 5\r\n\r\nhello" + CLOSE)
    assert [answer.body for answer in answers(raw)] == [b"/v1/x 5"]
    assert len(app.scopes) == 1


async def test_bytes_that_come_during_an_answer_do_not_disturb_it() -> None:
    gate = asyncio.Event()

    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await gate.wait()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})

    async with serving(slow) as (port, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(HEAD + b"Content-Length: 0\r\n\r\n")
        await asyncio.sleep(0.05)
        writer.write(b"\x00garbage\r\n\r\n")
        await asyncio.sleep(0.05)
        gate.set()
        (answer,) = answers(await rest(reader))
        writer.close()
    assert answer.body == b"ok"


async def test_an_upgrade_is_ignored_and_the_request_answered() -> None:
    app = Recorder()
    upgrade = b"GET /a HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    async with serving(app) as (port, _):
        answer = await one(port, upgrade)
    assert (answer.status, answer.body) == (200, b"/a 0")


@pytest.mark.parametrize(
    ("line", "path"),
    [(b"OPTIONS *", "*"), (b"GET http://evil.example", "/"), (b"GET http://evil.example/admin?x", "/admin")],
)
async def test_s19_a_target_in_another_form_is_its_path_alone(line: bytes, path: str) -> None:
    app = Recorder()
    async with serving(app) as (port, _):
        answer = await one(port, line + b" HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    assert (answer.status, app.scopes[0]["path"]) == (200, path)


async def test_s41_connect_gets_405() -> None:
    async with serving(Recorder()) as (port, _):
        answer = await one(port, b"CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n")
    assert (answer.status, answer.error["code"]) == (405, "method_not_supported")


@pytest.mark.parametrize(
    "head",
    [
        HEAD + b"X: " + b"a" * 33_000 + b"\r\n\r\n",
        HEAD + b"".join(b"X-%d: %s\r\n" % (n, b"a" * 400) for n in range(90)) + b"\r\n",
        HEAD + b"".join(b"X-%d: a\r\n" % n for n in range(100)) + b"\r\n",
        b"GET /" + b"a" * 33_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
        HEAD + b"X: " + b"a" * 10_000_000,
    ],
    ids=["one long field", "many fields", "101 fields", "long path", "10 MB without an end"],
)
async def test_r24_a_head_over_32_kib_or_100_fields_gets_431(head: bytes) -> None:
    app = Recorder()
    async with serving(app, protocol=Quick) as (port, _):
        answer = await one(port, head)
    assert (answer.status, answer.error["code"]) == (431, "request_header_fields_too_large")
    assert app.scopes == []


async def test_a_head_just_within_the_caps_is_served() -> None:
    app = Recorder()
    fields = b"".join(b"X-%d: %s\r\n" % (n, b"a" * 320) for n in range(97))
    request = HEAD + fields + b"Connection: close\r\nContent-Length: 40000\r\n\r\n" + b"b" * 40_000
    assert 31_000 < request.index(b"\r\n\r\n") < 32_768
    async with serving(app) as (port, _):
        answer = await one(port, request)
    assert (answer.status, answer.body) == (200, b"/v1/x 40000")
    assert len(app.scopes[0]["headers"]) == 100


async def test_r20_a_thousand_slow_heads_are_closed_in_time_and_others_are_served() -> None:
    """The real deadline is 10 s; here it is 0.5 s for a thousand sockets that send a byte each 50 ms."""

    class Half(Quick):
        head_seconds = 0.5

    async def slow(port: int) -> tuple[float, list[int]]:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        began = time.monotonic()
        reading = asyncio.create_task(rest(reader, 10))
        for byte in HEAD * 10:
            if reading.done():
                break
            with contextlib.suppress(ConnectionError):
                writer.write(bytes([byte]))
            await asyncio.sleep(0.05)
        raw = await reading
        writer.close()
        return time.monotonic() - began, [answer.status for answer in answers(raw)]

    async with serving(Recorder(), protocol=Half, limit_concurrency=2000) as (port, _):
        slowly = [asyncio.create_task(slow(port)) for _ in range(1000)]
        await asyncio.sleep(0.2)
        healthy = await asyncio.gather(*(one(port, CLOSE) for _ in range(20)))
        results = await asyncio.gather(*slowly)
    assert {answer.status for answer in healthy} == {200}
    assert {tuple(statuses) for _, statuses in results} == {(408,)}
    assert max(seconds for seconds, _ in results) < 3.0


async def test_r20_the_deadline_is_for_the_whole_head_and_starts_again_with_the_next_request() -> None:
    async with serving(Recorder(), protocol=Quick) as (port, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /one HTTP/1.1\r\nHost: a\r\n\r\n")
        await reader.readuntil(b"/one 0")
        await asyncio.sleep(0.5)  # idle for longer than a head may take
        writer.write(b"G")
        began = time.monotonic()
        (answer,) = answers(await rest(reader))
        writer.close()
    assert 0.25 < time.monotonic() - began < 1.5
    assert (answer.status, answer.error["code"]) == (408, "request_timeout")


async def test_r20_a_connection_that_says_nothing_is_closed_without_a_word() -> None:
    async with serving(Recorder(), protocol=Quick) as (port, _):
        began = time.monotonic()
        assert await say(port, b"") == b""
    assert 0.25 < time.monotonic() - began < 1.5


def test_r20_the_deadline_of_a_head_is_10_seconds() -> None:
    assert (GatewayProtocol.head_seconds, GatewayProtocol.head_bytes, GatewayProtocol.head_fields) == (10, 32768, 100)


async def test_a_client_that_is_refused_early_reads_the_answer_although_it_goes_on_sending() -> None:
    async def early(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 401, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"no"})

    async with serving(early, protocol=Quick) as (port, server):
        began = time.monotonic()
        answer = await one(port, CHUNKED + b"10000\r\n" + b"x" * 60_000)
        while server.server_state.connections:
            await asyncio.sleep(0.01)
    assert (answer.status, answer.body) == (401, b"no")
    assert time.monotonic() - began < 1.5


async def test_a_failing_application_is_a_500_in_openais_shape(caplog: pytest.LogCaptureFixture) -> None:
    async def failing(scope: Scope, receive: Receive, send: Send) -> None:
        raise RuntimeError("secret detail")

    async with serving(failing) as (port, _):
        answer = await one(port, CLOSE)
    assert (answer.status, answer.error["code"], answer.error["type"]) == (500, "internal_error", "server_error")
    assert b"secret detail" not in answer.body
    assert "secret detail" in caplog.text


async def test_more_connections_than_allowed_are_told_so_and_closed() -> None:
    async with serving(Recorder(), limit_concurrency=2) as (port, _):
        held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
        answer = await one(port, b"")
        for _, writer in held:
            writer.close()
    assert (answer.status, answer.error["code"], answer.headers["retry-after"]) == (503, "overloaded", "1")


async def test_a_client_that_leaves_is_reported_to_the_application_at_once() -> None:
    left = asyncio.Event()

    async def waiting(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        message = await receive()
        assert message["type"] == "http.disconnect"
        left.set()

    async with serving(waiting) as (port, _):
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(HEAD + b"Content-Length: 0\r\n\r\n")
        await asyncio.sleep(0.05)
        writer.close()
        async with asyncio.timeout(1):
            await left.wait()
