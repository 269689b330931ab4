"""The runtime against the emulator, with small applications: what goes out, when, and what is done in between."""

import asyncio
import json
import time
from typing import Any

import pytest
from msgspec.structs import replace

from proxysite.awslambda.runtime import Receive, Runtime, Scope, Send
from tests.deploy.emulator import NULS, Emulator
from tests.deploy.requests import EVENTS, FORGED, SOURCE, rest_event, url_event
from tests.deploy.toys import FAREWELL, SSE, Quiet, answering, running, site

MODES = ("response_stream", "buffered")
HEADS = [(200, "HEAD", b"never sent", b""), (302, "HEAD", b"", b"")]


async def read(receive: Receive) -> bytes:
    message = await receive()
    assert not message["more_body"]
    body: bytes = message["body"]
    return body


async def mirror(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers with what it was asked."""
    body = await read(receive)
    said = {
        "method": scope["method"],
        "path": scope["path"],
        "query": scope["query_string"].decode(),
        "client": scope["client"],
        "scheme": scope["scheme"],
        "headers": [[name.decode(), value.decode()] for name, value in scope["headers"]],
        "size": len(body),
        "hex": body[:64].hex(),
    }
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": json.dumps(said).encode()})


async def test_five_events_a_tenth_of_a_second_apart_arrive_so() -> None:
    async def ticking(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": SSE})
        for number in range(5):
            await send({"type": "http.response.body", "body": b"data: %d\n\n" % number, "more_body": True})
            await asyncio.sleep(0.1)
        await send({"type": "http.response.body"})

    async with running(ticking) as emulator:
        delivery = await emulator.invoke(url_event("/"))
    assert delivery.answer == {"statusCode": 200, "headers": {"content-type": "text/event-stream"}}
    assert delivery.headers["content-type"] == "application/vnd.awslambda.http-integration-response"
    assert delivery.headers["lambda-runtime-invocation-id"] == f"attempt-{delivery.id}"
    assert [data for _, data in delivery.body_chunks] == [b"data: %d\n\n" % number for number in range(5)]
    for number, (at, _) in enumerate(delivery.body_chunks):
        assert abs(at - delivery.body_chunks[0][0] - number * 0.1) < 0.02
    assert delivery.trailers == {}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("form", sorted(EVENTS))
async def test_a_request_reaches_the_application_as_it_was_sent(form: str, mode: str) -> None:
    headers = {"authorization": "Bearer k", "x-a_b": "dropped", "x-a-b": "kept", "cookie": "a=1; b=2"}
    event = EVENTS[form]("/v1/x y?q=a%20b&e=", "POST", headers, b"\x00\xff\xfe")
    async with running(mirror, GATEWAY_INVOKE_MODE=mode) as emulator:
        delivery = await emulator.invoke(event)
    assert delivery.streamed == (mode == "response_stream" and form != "alb")
    said = json.loads(delivery.body)
    fields = dict(said["headers"])
    assert (said["method"], said["path"], said["hex"]) == ("POST", "/v1/x y", "00fffe")
    assert said["query"] in ("q=a%20b&e=", "q=a+b&e=")
    assert said["client"] == [SOURCE, 0]
    assert said["client"] != [FORGED, 0]
    assert said["scheme"] == "https"
    assert fields["x-a-b"] == "kept"
    assert "x-a_b" not in fields
    assert (fields["cookie"], fields["content-length"]) == ("a=1; b=2", "3")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("form", sorted(EVENTS))
async def test_binary_bodies_cookies_and_repeated_headers_come_back(form: str, mode: str) -> None:
    body = bytes(range(256)) * 8
    headers = [
        (b"content-type", b"image/png"),
        (b"set-cookie", b"sessionid=1; Path=/"),
        (b"set-cookie", b"csrftoken=2; Path=/"),
        (b"vary", b"cookie"),
        (b"vary", b"origin"),
        (b"connection", b"close"),
    ]
    async with running(answering(body, 201, headers), GATEWAY_INVOKE_MODE=mode) as emulator:
        delivery = await emulator.invoke(EVENTS[form]("/"))
    assert delivery.status == 201
    assert delivery.body == body
    assert sorted(delivery.cookies) == ["csrftoken=2; Path=/", "sessionid=1; Path=/"]
    assert delivery.header("vary") == "cookie, origin"
    assert delivery.header("connection") is None


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("form", sorted(EVENTS))
async def test_a_body_of_6_mb_is_taken_whole(form: str, mode: str) -> None:
    body = b"x" * (6 * 1024 * 1024 - 4096)
    async with running(mirror, GATEWAY_INVOKE_MODE=mode) as emulator:
        delivery = await emulator.invoke(EVENTS[form]("/", "POST", {}, body))
    assert json.loads(delivery.body)["size"] == len(body)


async def test_a_stream_may_be_larger_than_a_buffered_response() -> None:
    body = b"y" * (8 * 1024 * 1024)
    async with running(answering(body)) as emulator:
        assert (await emulator.invoke(url_event("/"))).body == body
    async with running(answering(body, 200, [(b"content-type", b"text/plain")]), GATEWAY_INVOKE_MODE="buffered") as em:
        delivery = await em.invoke(url_event("/"))
        assert delivery.error is not None
        assert delivery.error["errorType"] == "ResponseTooLarge"
        assert (await em.invoke({"again": 1})).raw == b'{"seen": {"again": 1}}'


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("status", "method", "sent", "expected"),
    [
        (302, "GET", b"", b"\n"),
        (204, "GET", b"", b""),
        (304, "GET", b"", b""),
        (200, "GET", b"", b""),
        (200, "HEAD", b"never sent", b""),
        (302, "HEAD", b"", b""),
    ],
)
async def test_responses_without_a_body(mode: str, status: int, method: str, sent: bytes, expected: bytes) -> None:
    headers = [(b"location", b"/admin/"), (b"content-length", b"%d" % len(sent))]
    async with running(answering(sent, status, headers), GATEWAY_INVOKE_MODE=mode) as emulator:
        delivery = await emulator.invoke(url_event("/", method))
    assert delivery.status == status
    assert delivery.header("location") == "/admin/"
    assert delivery.body == (expected if mode == "response_stream" else b"")
    if mode == "response_stream":
        assert delivery.raw.count(NULS) == 1
        assert delivery.header("content-length") == (b"%d" % len(expected or sent)).decode()


async def test_an_error_midway_is_told_to_the_client_and_to_lambda() -> None:
    async def breaking(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": SSE})
        await send({"type": "http.response.body", "body": b"data: 1\n\n", "more_body": True})
        raise ValueError("no more")

    async with running(breaking) as emulator:
        delivery = await emulator.invoke(url_event("/"))
        again = await emulator.invoke(url_event("/"))
    assert delivery.body == b"data: 1\n\n" + FAREWELL
    assert delivery.trailers["lambda-runtime-function-error-type"] == "Function.ValueError"
    assert delivery.failure is not None
    assert (delivery.failure["errorType"], delivery.failure["errorMessage"]) == ("ValueError", "no more")
    assert again.status == 200


async def test_an_application_can_end_a_stream_properly_and_have_it_counted_as_failed() -> None:
    async def telling(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": SSE})
        scope["extensions"]["awslambda.failed"]["call"]("Upstream", "gone")
        await send({"type": "http.response.body", "body": b"data: sorry\n\n"})

    async with running(telling) as emulator:
        delivery = await emulator.invoke(url_event("/"))
    assert delivery.body == b"data: sorry\n\n"
    assert delivery.failure == {"errorType": "Upstream", "errorMessage": "gone"}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("begins", [False, True])
async def test_an_error_before_the_first_byte_is_a_response(mode: str, begins: bool) -> None:
    async def failing(scope: Scope, receive: Receive, send: Send) -> None:
        if begins:
            await send({"type": "http.response.start", "status": 200, "headers": SSE})
        raise KeyError("secret")

    async with running(failing, GATEWAY_INVOKE_MODE=mode) as emulator:
        delivery = await emulator.invoke(url_event("/"))
    assert (delivery.status, delivery.body) == (500, b"KeyError")


async def test_the_deadline_ends_a_stream_before_lambda_would() -> None:
    async def endless(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": SSE})
        while True:
            await send({"type": "http.response.body", "body": b"data: 1\n\n", "more_body": True})
            await asyncio.sleep(0.05)

    background = Quiet()
    async with running(endless, background) as emulator:
        delivery = await emulator.invoke(url_event("/"), timeout=2.0)
        again = emulator.send(url_event("/"), timeout=1.0)
        await again.over.wait()
    # Asked to end after 1.5 s, which it did not heed; cut off after 1.75 s.
    assert 1.7 < delivery.ended < 1.95
    assert delivery.body.endswith(FAREWELL)
    assert delivery.trailers["lambda-runtime-function-error-type"] == "Function.TimeoutError"
    assert background.calls == ["thaw", "time is up", "flush"] * 2


async def test_the_application_may_end_in_its_own_words_first() -> None:
    ending = asyncio.Event()
    background = Quiet()
    background.ends = lambda task: ending.set()

    async def patient(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": SSE})
        await send({"type": "http.response.body", "body": b"data: 1\n\n", "more_body": True})
        await ending.wait()
        await send({"type": "http.response.body", "body": b"data: my own end\n\n"})

    async with running(patient, background) as emulator:
        delivery = await emulator.invoke(url_event("/"), timeout=2.0)
    assert delivery.body == b"data: 1\n\ndata: my own end\n\n"
    assert delivery.trailers == {}
    assert 1.4 < delivery.ended < 1.7


async def test_work_after_the_response_is_invisible_to_the_client_and_done_before_the_next_poll() -> None:
    background = Quiet()
    background.flushing = 0.3
    async with running(answering(b"done"), background) as emulator:
        delivery = await emulator.invoke(url_event("/"))
        assert background.calls == ["thaw"]
        await emulator.idle()
    assert delivery.ended < 0.15
    assert background.calls == ["thaw", "flush"]
    assert 0.3 <= delivery.polled < 0.5


async def test_work_after_the_response_that_hangs_is_left_before_lambda_kills() -> None:
    background = Quiet()
    background.flushing = 60.0
    async with running(answering(b"done"), background) as emulator:
        delivery = await emulator.invoke(url_event("/"), timeout=1.5)
        await emulator.idle()
    assert 1.0 < delivery.polled < 1.45


@pytest.mark.parametrize("event", [{"manage": ["check"]}, [1, 2], "text", {"requestContext": "no"}])
async def test_an_event_that_is_no_request_is_answered_in_plain_json(event: Any) -> None:
    async with running(mirror) as emulator:
        delivery = await emulator.invoke(event)
    assert not delivery.streamed
    assert json.loads(delivery.raw) == {"seen": event}


async def test_a_response_that_never_ends_properly_counts_as_broken() -> None:
    async def leaving(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})

    async with running(leaving) as emulator:
        delivery = await emulator.invoke(url_event("/"))
    assert delivery.body == b"half"
    assert delivery.trailers["lambda-runtime-function-error-type"] == "Function.Unfinished"


async def test_the_disconnect_comes_after_the_response_and_not_before() -> None:
    seen: list[str] = []

    async def watching(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        watch = asyncio.ensure_future(receive())
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"1", "more_body": True})
        await asyncio.sleep(0.05)
        seen.append("done" if watch.done() else "waiting")
        await send({"type": "http.response.body", "body": b"2"})
        seen.append((await watch)["type"])

    async with running(watching) as emulator:
        await emulator.invoke(url_event("/"))
        await emulator.idle()
    assert seen == ["waiting", "http.disconnect"]


async def test_managed_instances_send_several_events_to_one_process() -> None:
    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": SSE})
        await send({"type": "http.response.body", "body": b"a", "more_body": True})
        await asyncio.sleep(0.25)
        await send({"type": "http.response.body", "body": b"b"})

    for mode in MODES:
        async with running(slow, Quiet(), AWS_LAMBDA_MAX_CONCURRENCY="16", GATEWAY_INVOKE_MODE=mode) as emulator:
            began = time.monotonic()
            found = await asyncio.gather(*(emulator.invoke(url_event("/")) for _ in range(16)))
            assert time.monotonic() - began < 1.0
            assert {delivery.body for delivery in found} == {b"ab"}


async def test_a_failed_start_is_told_to_lambda_and_ends_the_process(capsys: pytest.CaptureFixture[str]) -> None:
    async with Emulator() as emulator:

        def broken() -> Any:
            raise ImportError("no such module")

        with pytest.raises(SystemExit) as caught:
            await Runtime(broken, emulator.environment()).run()
        assert caught.value.code == 1
        assert emulator.init_error is not None
        assert (emulator.init_error["errorType"], emulator.init_error["errorMessage"]) == (
            "ImportError",
            "no such module",
        )
        assert emulator.said["lambda-runtime-function-error-type"] == "Runtime.ImportError"
        assert emulator.polls == 0


async def test_an_application_that_refuses_to_start_says_why() -> None:
    async def refusing(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no secret"})

    async with Emulator() as emulator:
        with pytest.raises(SystemExit):
            await Runtime(lambda: replace(site(refusing), app=refusing), emulator.environment()).run()
        assert emulator.init_error is not None
        assert emulator.init_error["errorMessage"] == "no secret"


async def test_a_snapshot_is_taken_before_the_application_starts() -> None:
    background = Quiet()
    async with Emulator() as emulator:
        loaded = False

        def load() -> Any:
            nonlocal loaded
            loaded = True
            return site(answering(b"hi"), background)

        environ = emulator.environment(AWS_LAMBDA_INITIALIZATION_TYPE="snap-start")
        runtime = Runtime(load, environ)
        task = asyncio.ensure_future(runtime.run())
        await asyncio.wait_for(emulator.restore_asked.wait(), 5)
        assert loaded
        assert runtime.state == {}
        assert emulator.polls == 0
        emulator.restored.set()
        assert (await emulator.invoke(url_event("/"))).body == b"hi"
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_start_that_fails_after_the_restore_is_a_restore_error() -> None:
    async def refusing(scope: Scope, receive: Receive, send: Send) -> None:
        raise OSError("no way")

    async with Emulator() as emulator:
        emulator.restored.set()
        environ = emulator.environment(AWS_LAMBDA_INITIALIZATION_TYPE="snap-start")
        with pytest.raises(SystemExit):
            await Runtime(lambda: replace(site(refusing), app=refusing), environ).run()
        assert emulator.init_error is None
        assert emulator.restore_error is not None
        assert emulator.restore_error["errorMessage"] == "no way"


async def test_cookies_of_a_rest_api_stand_in_the_prelude_as_it_wants_them() -> None:
    headers = [(b"set-cookie", b"a=1"), (b"set-cookie", b"b=2")]
    async with running(answering(b"x", 200, headers)) as emulator:
        rest = await emulator.invoke(rest_event("/"))
        url = await emulator.invoke(url_event("/"))
    assert rest.answer["multiValueHeaders"] == {"set-cookie": ["a=1", "b=2"]}
    assert url.answer["cookies"] == ["a=1", "b=2"]
