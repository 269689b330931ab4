"""What the client and the ledger are told when a provider fails, and when the next route may be tried."""

import json
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from asgiref.sync import sync_to_async

from providers.models import ModelAlias, Provider
from tests.canaries import PROMPT
from tests.gateway import golden, house
from tests.gateway.house import TOKEN, Door
from tests.scripted import FIN, HANG, RESET, Chunk, Pause, ScriptedUpstream, Step, event, head, json_answer, sse

ASK: dict[str, Any] = {"model": "fast", "messages": [{"role": "user", "content": PROMPT}]}
STREAM = {**ASK, "stream": True}


async def post(door: Door, body: dict[str, Any]) -> httpx.Response:
    async with door.http(timeout=20) as http:
        return await http.post("/chat/completions", json=body)


def events(answer: httpx.Response) -> list[Any]:
    return [json.loads(line[6:]) for line in answer.text.split("\n\n") if line.startswith("data: {")]


@pytest.fixture
async def impatient(transactional_db: None, tmp_path: Path, scripted: ScriptedUpstream):  # type: ignore[no-untyped-def]
    """As `door`, with the time limits of its one route cut short."""

    def configure() -> str:
        limits = {"first_byte": 1.0, "gap": 1.0, "total": 3.0, "connect": 1.0}
        lab = house.provider("lab", scripted.url + "/v1", timeouts=limits)
        house.alias("fast", (lab, "gpt-4o"))
        return house.client_key()[1]

    async with house.open_house(configure, tmp_path) as opened:
        yield opened


@pytest.fixture
async def pair(transactional_db: None, tmp_path: Path, scripted: ScriptedUpstream):  # type: ignore[no-untyped-def]
    """Two routes: `first` is the scripted upstream under one model name, `second` under another."""

    def configure() -> str:
        limits = {"first_byte": 1.0, "gap": 1.0, "total": 3.0, "connect": 1.0}
        first = house.provider("first", scripted.url + "/v1", timeouts=limits)
        second = house.provider("second", scripted.url + "/v1", timeouts=limits)
        house.alias("fast", (first, "model-1"), (second, "model-2"))
        return house.client_key()[1]

    async with house.open_house(configure, tmp_path) as opened:
        yield opened


# --- errors as they are given on --------------------------------------------------------------------------------------


async def test_case_29_a_429_keeps_its_retry_headers_and_the_sdk_tries_three_times(
    door: Door, scripted: ScriptedUpstream
) -> None:
    error = {"error": {"message": "slow down", "type": "requests", "param": None, "code": "rate_limit_exceeded"}}
    scripted.default = json_answer(error, status=429, headers={"retry-after-ms": "50", "retry-after": "1"})
    async with door.client() as client:
        with pytest.raises(openai.RateLimitError) as caught:
            await client.chat.completions.create(**ASK)
    assert caught.value.code == "rate_limit_exceeded"
    assert caught.value.response.headers["retry-after-ms"] == "50"
    assert caught.value.response.headers["retry-after"] == "1"
    assert len(scripted.requests) == 3
    assert [row.outcome for row in await door.rows(3)] == ["upstream_error"] * 3


async def test_case_30_a_quota_that_is_used_up_is_not_asked_again(door: Door, scripted: ScriptedUpstream) -> None:
    error = {"error": {"message": "no", "type": "insufficient_quota", "param": None, "code": "insufficient_quota"}}
    scripted.default = json_answer(error, status=429)
    async with door.client() as client:
        with pytest.raises(openai.RateLimitError) as caught:
            await client.chat.completions.create(**ASK)
    assert caught.value.response.headers["x-should-retry"] == "false"
    assert len(scripted.requests) == 1


async def test_case_31_an_html_502_becomes_json_without_html(door: Door, scripted: ScriptedUpstream) -> None:
    page = b"<html><body>" + b"x" * 5000 + b"</body></html>"
    scripted.default = [head(502, {"content-type": "text/html", "content-length": str(len(page))}) + page]
    answer = await post(door, ASK)
    message = answer.json()["error"]["message"]
    assert answer.status_code == 502
    assert "<" not in message
    assert len(message) <= 200


async def test_case_32_a_provider_that_is_down_is_a_502_and_nothing_was_sent(door: Door) -> None:
    await sync_to_async(_move)("lab", "http://127.0.0.1:9/v1")
    await door.engine.sql(door.engine.reader.load)
    async with door.http(timeout=20) as http:
        answer = await http.post("/chat/completions", json=ASK)
    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "upstream_unreachable")
    [row] = await door.rows(1)
    assert (row.outcome, row.sent, row.status, row.tokens_in) == ("upstream_unreachable", False, 502, 0)


def _move(name: str, base_url: str) -> None:
    row = Provider.objects.get(name=name)
    row.base_url = base_url
    row.save()
    credential = row.credentials.get()
    credential.seal(TOKEN)
    credential.save()


async def test_case_33_a_context_length_error_is_passed_on_as_it_is(door: Door, scripted: ScriptedUpstream) -> None:
    error = {
        "error": {
            "message": "This model's maximum context length is 8192 tokens.",
            "type": "invalid_request_error",
            "param": "messages",
            "code": "context_length_exceeded",
        }
    }
    scripted.default = json_answer(error, status=400)
    answer = await post(door, ASK)
    assert (answer.status_code, answer.json()) == (400, error)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            {"object": "error", "message": "vllm says no", "type": "BadRequestError", "param": None, "code": 400},
            "vllm says no",
        ),
        ({"detail": "Not Found"}, "Not Found"),
        ({"error": "text only", "error_type": "validation"}, "text only"),
        ([{"error": {"code": 400, "message": "gemini", "status": "INVALID_ARGUMENT"}}], "gemini"),
    ],
)  # fmt: skip
async def test_case_34_every_shape_of_error_becomes_the_envelope(
    door: Door, scripted: ScriptedUpstream, body: object, message: str
) -> None:
    scripted.default = json_answer(body, status=400)
    answer = await post(door, ASK)
    error = answer.json()["error"]
    assert answer.status_code == 400
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"] == message
    assert error["code"] is None or isinstance(error["code"], str)


async def test_case_35_a_key_in_the_providers_error_is_masked(
    door: Door, scripted: ScriptedUpstream, capfd: pytest.CaptureFixture[str]
) -> None:
    scripted.default = json_answer({"error": {"message": f"bad key {TOKEN}!", "code": TOKEN}}, status=400)
    answer = await post(door, ASK)
    assert TOKEN not in answer.text
    assert answer.json()["error"]["message"] == "bad key ***!"
    assert TOKEN not in "".join(capfd.readouterr())


async def test_a_refused_credential_is_the_gateways_affair_and_not_the_clients(
    door: Door, scripted: ScriptedUpstream
) -> None:
    scripted.default = json_answer({"error": {"message": "Incorrect API key", "code": "invalid_api_key"}}, status=401)
    answer = await post(door, ASK)
    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "upstream_auth_failed")


# --- R57: a 200 that is none ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "script",
    [
        [head(200, {"content-type": "text/html", "content-length": "13"}) + b"<html></html>"],
        [head(200, {"content-type": "application/json", "content-length": "0"})],
        [head(200, {"content-type": "application/json", "content-length": "8"}) + b'{"id": "'],
        json_answer({"hello": "world"}),
        [head(204)],
        [b"HTTP/1.1 103 Early Hints\r\n\r\n", head(200, {"content-length": "2"}) + b"no"],
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_r57_a_200_that_is_no_completion_is_a_502_and_one_row(
    door: Door, scripted: ScriptedUpstream, script: list[Step], stream: bool
) -> None:
    scripted.default = script
    answer = await post(door, STREAM if stream else ASK)
    assert answer.status_code == 502
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
    [row] = await door.rows(1)
    assert (row.status, row.sent) == (502, True)


async def test_case_21_json_where_a_stream_was_asked_becomes_the_stream(door: Door, scripted: ScriptedUpstream) -> None:
    scripted.default = json_answer(golden.COMPLETION)
    async with door.client() as client:
        stream = await client.chat.completions.create(**STREAM)
        text = "".join([part.choices[0].delta.content or "" async for part in stream])
    assert text == "Hello! How can I assist you today?"
    [row] = await door.rows(1)
    assert (row.tokens_out, row.usage_source, row.outcome) == (10, "provider", "ok")


# --- limits of time ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("body", [ASK, STREAM])
async def test_r06_a_provider_that_never_answers_is_a_504_at_the_first_byte_limit(
    impatient: Door, scripted: ScriptedUpstream, body: dict[str, Any]
) -> None:
    scripted.default = [HANG]
    answer = await post(impatient, body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "upstream_timeout")
    assert 1.0 <= answer.elapsed.total_seconds() <= 1.5
    [row] = await impatient.rows(1)
    assert (row.outcome, row.status, row.sent) == ("upstream_timeout", 504, True)
    await scripted.idle()


async def test_r07_a_stream_that_falls_silent_ends_with_an_error_event(
    impatient: Door, scripted: ScriptedUpstream
) -> None:
    sent = golden.chunks("a", "b")[:3]
    scripted.default = [*sse(*sent, done=False)[:-1], HANG]
    answer = await post(impatient, STREAM)
    *chunks, error = events(answer)
    assert answer.status_code == 200
    assert len(chunks) == 3
    assert error["error"]["code"] == "stream_interrupted"
    assert b"[DONE]" not in answer.content
    assert answer.elapsed.total_seconds() <= 2.0
    [row] = await impatient.rows(1)
    assert (row.outcome, row.error_code, row.usage_source) == ("upstream_timeout", "stream_interrupted", "estimated")
    await scripted.idle()


async def test_r08_a_drip_that_keeps_within_every_gap_is_cut_at_the_total(
    impatient: Door, scripted: ScriptedUpstream
) -> None:
    drip: list[Step] = [Chunk(event(golden.chunks("a")[0]))]
    for _ in range(20):
        drip += [Pause(0.6), Chunk(b": processing\n\n")]
    scripted.default = [
        head(200, {"content-type": "text/event-stream", "transfer-encoding": "chunked"}),
        *drip,
        Chunk(),
    ]
    answer = await post(impatient, STREAM)
    assert events(answer)[-1]["error"]["code"] == "stream_interrupted"
    assert 3.0 <= answer.elapsed.total_seconds() <= 4.0


# --- what ends a stream -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", [b"\n\n", b""])
async def test_case_18_an_error_event_of_the_upstream_is_the_end(
    door: Door, scripted: ScriptedUpstream, end: bytes
) -> None:
    broken = b'data: {"error":{"message":"boom","type":"server_error"}}'
    scripted.default = sse(*golden.chunks("a")[:2], broken + end, done=bool(end))
    async with door.client() as client:
        stream = await client.chat.completions.create(**STREAM)
        with pytest.raises(openai.APIError, match="boom"):
            async for _ in stream:
                pass
    [row] = await door.rows(1)
    assert row.outcome == "upstream_error"


async def test_an_error_in_the_first_event_is_a_status_and_frees_the_next_route(
    pair: Door, scripted: ScriptedUpstream
) -> None:
    overloaded = {"error": {"message": "busy", "code": 503}}
    scripted.enqueue(sse(overloaded), sse(*golden.chunks("a")), sse({"error": {"message": "too long", "code": 400}}))
    moved, refused = await post(pair, STREAM), await post(pair, STREAM)
    assert (moved.status_code, moved.headers["x-gateway-provider"]) == (200, "second")
    assert (refused.status_code, refused.json()["error"]["message"]) == (400, "too long")


@pytest.mark.parametrize("cut", [[RESET], [FIN]])
async def test_case_19_a_cut_stream_ends_with_an_error_event_and_no_done(
    door: Door, scripted: ScriptedUpstream, cut: list[Step]
) -> None:
    scripted.default = [*sse(*golden.chunks("a", "b")[:2], done=False)[:-1], Pause(0.05), *cut]
    answer = await post(door, STREAM)
    *chunks, error = events(answer)
    assert len(chunks) == 2
    assert error["error"]["code"] == "stream_interrupted"
    assert b"[DONE]" not in answer.content
    [row] = await door.rows(1)
    assert (row.outcome, row.error_code) == ("truncated", "stream_interrupted")
    assert len(scripted.requests) == 1


async def test_case_12_and_r11_done_is_added_only_after_a_finish_reason(door: Door, scripted: ScriptedUpstream) -> None:
    whole = golden.chunks("a")
    scripted.enqueue(
        sse(*whole, done=False), sse(*whole[:2], done=False), sse(*whole, b"data: [DONE]\n\ndata: {}\n\n", done=False)
    )
    finished, unfinished, garbage = [await post(door, STREAM) for _ in range(3)]
    assert finished.content.endswith(b"data: [DONE]\n\n")
    assert b"[DONE]" not in unfinished.content
    assert events(unfinished)[-1]["error"]["code"] == "stream_interrupted"
    assert garbage.content == finished.content
    assert [row.outcome for row in await door.rows(3)] == ["ok", "truncated", "ok"]


# --- the next route ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503])
@pytest.mark.parametrize("body", [ASK, STREAM])
async def test_a_status_that_says_try_elsewhere_moves_on_to_the_next_route(
    pair: Door, scripted: ScriptedUpstream, status: int, body: dict[str, Any]
) -> None:
    good = sse(*golden.chunks("a")) if "stream" in body else json_answer(golden.COMPLETION)
    scripted.enqueue(json_answer({"error": {"message": "no"}}, status=status), good)
    answer = await post(pair, body)
    assert answer.status_code == 200
    assert answer.headers["x-gateway-provider"] == "second"
    assert [request.json()["model"] for request in scripted.requests] == ["model-1", "model-2"]
    [row] = await pair.rows(1)
    assert [(part["provider"], part["status"]) for part in row.attempts] == [("first", status), ("second", 200)]
    assert row.provider == "second"


@pytest.mark.parametrize("status", [400, 404, 422])
async def test_a_refusal_that_is_about_the_request_does_not_move_on(
    pair: Door, scripted: ScriptedUpstream, status: int
) -> None:
    scripted.default = json_answer({"error": {"message": "no"}}, status=status)
    answer = await post(pair, ASK)
    assert answer.status_code == status
    assert len(scripted.requests) == 1


async def test_a_route_whose_provider_is_down_is_passed_over(pair: Door, scripted: ScriptedUpstream) -> None:
    await sync_to_async(_move)("first", "http://127.0.0.1:9/v1")
    await pair.engine.sql(pair.engine.reader.load)
    scripted.default = json_answer(golden.COMPLETION)
    answer = await post(pair, ASK)
    assert answer.headers["x-gateway-provider"] == "second"


async def test_r09_a_timeout_or_reset_after_sending_may_have_been_billed_and_does_not_move_on(
    pair: Door, scripted: ScriptedUpstream
) -> None:
    scripted.enqueue([HANG], [RESET])
    late, reset = await post(pair, ASK), await post(pair, ASK)
    assert (late.status_code, reset.status_code) == (504, 502)
    assert [request.json()["model"] for request in scripted.requests] == ["model-1", "model-1"]


async def test_an_alias_may_allow_the_next_route_after_a_timeout(pair: Door, scripted: ScriptedUpstream) -> None:
    def allow() -> None:
        row = ModelAlias.objects.get()
        row.retry_after_timeout = True
        row.save()

    await sync_to_async(allow)()
    await pair.engine.sql(pair.engine.reader.load)
    scripted.enqueue([HANG], json_answer(golden.COMPLETION))
    answer = await post(pair, ASK)
    assert answer.headers["x-gateway-provider"] == "second"


@pytest.mark.parametrize("value", ["7", "0", "-1", "1000000000", "soon", "Fri, 31 Dec 2027 23:59:59 GMT"])
async def test_r14_a_retry_after_is_relayed_where_it_makes_sense_and_never_waited_for(
    door: Door, scripted: ScriptedUpstream, value: str
) -> None:
    scripted.default = json_answer({"error": {"message": "no"}}, status=429, headers={"retry-after": value})
    answer = await post(door, ASK)
    assert answer.elapsed.total_seconds() < 1
    kept = answer.headers.get("retry-after")
    if value in ("7", "0"):
        assert kept == value
    elif value in ("-1", "1000000000", "soon"):
        assert kept is None
    else:
        assert kept in (None, value) or answer.headers["x-should-retry"] == "false"
    assert len(scripted.requests) == 1


async def test_a_second_credential_serves_when_the_first_is_refused(door: Door, scripted: ScriptedUpstream) -> None:
    def add() -> None:
        row = Provider.objects.get(name="lab")
        credential = row.credentials.model(provider=row, name="spare")
        credential.seal("spare-token")
        credential.save()

    await sync_to_async(add)()
    await door.engine.sql(door.engine.reader.load)
    scripted.enqueue(json_answer({"error": {"message": "no"}}, status=401), json_answer(golden.COMPLETION))
    answer = await post(door, ASK)
    assert answer.status_code == 200
    assert [request.header("authorization") for request in scripted.requests] == [
        f"Bearer {TOKEN}",
        "Bearer spare-token",
    ]
