"""Replicate's predictions as a client of OpenAI's API sees them: https://replicate.com/docs/reference/http."""

import json
from collections.abc import AsyncIterator, Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from gateway.forwarding import predictions
from ledger.prices import Price, cost
from ledger.usage import read_usage
from providers.predictions import is_within, text_of
from tests.gateway import house
from tests.gateway.house import TOKEN, Door, eventually
from tests.gateway.leaving import Leaver, request
from tests.scripted import HANG, Chunk, Script, ScriptedUpstream, head, json_answer

ID = "gm3qorzdhgbfurvjtvhg6dckhu"
ASK: dict[str, Any] = {
    "model": "llama",
    "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}],
    "temperature": 0.2,
    "max_completion_tokens": 64,
    "stop": ["a", "b"],
    "user": "u1",
}
METRICS = {"input_token_count": 12, "output_token_count": 3, "predict_time": 0.65, "total_time": 0.7}
EVENTS = [
    b"event: output\nid: 1:0\ndata: Hel\n\n",
    b": hi\n\nevent: output\nid: 2:0\ndata: lo\ndata: \ndata:  there\n\n",
    b"event: done\nid: 3:0\ndata: {}\n\n",
]


def prediction(scripted: ScriptedUpstream, status: str, **fields: Any) -> dict[str, Any]:
    urls = {"get": "https://elsewhere.example.com/get", "stream": f"{scripted.url}/files/abc"}
    return {"id": ID, "status": status, "output": None, "error": None, "urls": urls, **fields}


def stream(*events: bytes) -> Script:
    chunks = [Chunk(part) for event in events for part in (event[:9], event[9:])]
    return [head(200, {"content-type": "text/event-stream", "transfer-encoding": "chunked"}), *chunks, Chunk()]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predictions, "FIRST_POLL", 0.01)


@pytest.fixture
async def door(transactional_db: None, tmp_path: Path, scripted: ScriptedUpstream) -> AsyncIterator[Door]:
    def configure() -> str:
        quirks = {"rename": {"max_completion_tokens": "max_tokens"}, "drop": ["user"]}
        options: Callable[[str], dict[str, str]] = lambda form: {"input": form} if form else {}  # noqa: E731
        for form in ("", "messages", "llama3", "chatml"):
            lab = house.provider(
                f"r{form}", scripted.url + "/v1", dialect="replicate", quirks=quirks, options=options(form)
            )
            house.alias(f"{form}llama", (lab, "meta/meta-llama-3-8b-instruct"))
            if not form:
                house.alias("r/*", (lab, ""))
        return house.client_key()[1]

    async with house.open_house(configure, tmp_path) as opened:
        yield opened


async def test_a_plain_call_creates_a_prediction_and_polls_it(door: Door, scripted: ScriptedUpstream) -> None:
    done = prediction(scripted, "succeeded", output=["Hel", "lo"], metrics=METRICS)
    scripted.enqueue(
        json_answer(prediction(scripted, "starting"), status=201),
        json_answer(prediction(scripted, "processing")),
        json_answer(done),
    )
    async with door.http() as http:
        answer = await http.post("/chat/completions", json=ASK)
    assert answer.status_code == 200
    told = answer.json()
    assert told.pop("created") > 1_700_000_000
    assert told == {
        "id": f"chatcmpl-{ID}",
        "object": "chat.completion",
        "model": "meta/meta-llama-3-8b-instruct",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hello"},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 12, "completion_tokens": 3, "total_tokens": 15, "seconds": 0.65},
    }
    create, *polls = scripted.requests
    assert (create.method, create.target) == ("POST", "/v1/models/meta/meta-llama-3-8b-instruct/predictions")
    assert create.header("authorization") == f"Bearer {TOKEN}"
    assert create.header("prefer") == "wait"
    assert create.json() == {
        "input": {
            "prompt": "Hi",
            "system_prompt": "Be brief.",
            "temperature": 0.2,
            "max_tokens": 64,
            "stop_sequences": "a,b",
        }
    }
    assert [(poll.method, poll.target) for poll in polls] == [("GET", f"/v1/predictions/{ID}")] * 2
    [row] = await door.rows(1)
    assert (row.tokens_in, row.tokens_out, row.media_ms, row.upstream_request_id) == (12, 3, 650, ID)


async def test_a_stream_is_relayed_from_the_predictions_own_events(door: Door, scripted: ScriptedUpstream) -> None:
    scripted.enqueue(
        json_answer(prediction(scripted, "starting"), status=201),
        stream(*EVENTS),
        json_answer(prediction(scripted, "succeeded", metrics=METRICS)),
    )
    body = {**ASK, "stream": True, "stream_options": {"include_usage": True}}
    async with door.client() as client:
        parts = [part async for part in await client.chat.completions.create(**body)]
    assert "".join(part.choices[0].delta.content or "" for part in parts[:-1]) == "Hello\n\n there"
    assert parts[0].choices[0].delta.role == "assistant"
    assert parts[-2].choices[0].finish_reason == "stop"
    assert parts[-1].usage.total_tokens == 15
    assert {part.id for part in parts} == {f"chatcmpl-{ID}"}
    create, events, last = scripted.requests
    assert create.json()["stream"] is True
    assert (events.method, events.target, events.header("accept")) == ("GET", "/files/abc", "text/event-stream")
    assert last.target == f"/v1/predictions/{ID}"


async def test_a_client_that_leaves_has_its_prediction_cancelled(door: Door, scripted: ScriptedUpstream) -> None:
    hanging: list[Any] = [*list(stream(EVENTS[0]))[:-1], HANG]
    scripted.enqueue(json_answer(prediction(scripted, "starting"), status=201), hanging)
    leaver = await Leaver.come(door, request(door, {**ASK, "stream": True}))
    await leaver.events(1)
    leaver.leave("rst")
    assert await eventually(lambda: len(scripted.requests) == 3)
    assert (scripted.requests[2].method, scripted.requests[2].target) == ("POST", f"/v1/predictions/{ID}/cancel")
    [row] = await door.rows(1)
    assert row.outcome == "client_cancelled"


async def test_a_plain_client_that_leaves_has_its_prediction_cancelled(door: Door, scripted: ScriptedUpstream) -> None:
    scripted.default = json_answer(prediction(scripted, "processing"))
    leaver = await Leaver.come(door, request(door, ASK))
    assert await eventually(lambda: len(scripted.requests) > 2)
    leaver.leave("fin")
    assert await eventually(lambda: scripted.requests[-1].target.endswith("/cancel"))


@pytest.mark.parametrize("url", ["http://127.0.0.2:9/files/abc", "https://evil.example.com/", "file:///etc/passwd", 7])
async def test_a_stream_outside_the_providers_domain_is_not_followed(
    door: Door, scripted: ScriptedUpstream, url: object
) -> None:
    created = {**prediction(scripted, "starting"), "urls": {"stream": url}}
    scripted.enqueue(json_answer(created, status=201))
    async with door.http() as http:
        answer = await http.post("/chat/completions", json={**ASK, "stream": True})
    assert answer.status_code == 502
    assert "outside its own domain" in answer.json()["error"]["message"]
    assert await eventually(lambda: len(scripted.requests) == 2)
    assert scripted.requests[1].target.endswith("/cancel")


@pytest.mark.parametrize(
    ("url", "good"),
    [
        ("https://stream.replicate.com/v1/files/a", True),
        ("https://api.replicate.com/v1/files/a", True),
        ("https://a.b.replicate.com/", True),
        ("https://replicate.com.evil.example/", False),
        ("https://evilreplicate.com/", False),
        ("https://replicate.com@evil.example/", False),
        ("https://stream.replicate.com:8443/", False),
        ("http://stream.replicate.com/", False),
        ("https://[", False),
        ("https://stream.replicate.com:x/", False),
    ],
)
def test_what_lies_in_the_providers_domain(url: str, good: bool) -> None:
    assert is_within(url, "https://api.replicate.com/v1") is good


def test_only_an_api_has_a_whole_domain() -> None:
    assert not is_within("https://b.example.com/", "https://a.example.com/v1")
    assert not is_within("https://evil.com/", "https://api.com/v1")


async def test_a_prediction_that_failed_is_an_error(door: Door, scripted: ScriptedUpstream) -> None:
    failed = prediction(scripted, "failed", error="CUDA out of memory")
    scripted.enqueue(json_answer(failed, status=201))
    async with door.http() as http:
        answer = await http.post("/chat/completions", json=ASK)
    assert answer.status_code == 502
    assert answer.json()["error"] == {
        "message": "CUDA out of memory",
        "type": "upstream_error",
        "param": None,
        "code": "prediction_failed",
    }


async def test_an_error_event_ends_the_stream(door: Door, scripted: ScriptedUpstream) -> None:
    scripted.enqueue(
        json_answer(prediction(scripted, "starting"), status=201), stream(EVENTS[0], b"event: error\ndata: boom\n\n")
    )
    async with door.http() as http:
        answer = await http.post("/chat/completions", json={**ASK, "stream": True})
    assert answer.content.endswith(
        b'data: {"error":{"message":"boom","type":"upstream_error","param":null,"code":"prediction_failed"}}\n\n'
    )
    assert b"[DONE]" not in answer.content


async def test_a_model_that_cannot_stream_is_polled_and_replayed(door: Door, scripted: ScriptedUpstream) -> None:
    created = {**prediction(scripted, "starting"), "urls": {}}
    scripted.enqueue(json_answer(created, status=201), json_answer({**created, "status": "succeeded", "output": "Hi"}))
    async with door.http() as http:
        answer = await http.post("/chat/completions", json={**ASK, "stream": True})
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert b'"content":"Hi"' in answer.content
    assert answer.content.endswith(b"data: [DONE]\n\n")


async def test_a_refusal_keeps_its_status_and_words(door: Door, scripted: ScriptedUpstream) -> None:
    said = {"title": "Input validation failed", "detail": "- input: prompt is required\n", "status": 422}
    scripted.enqueue(json_answer(said, status=422))
    async with door.http() as http:
        answer = await http.post("/chat/completions", json=ASK)
    assert (answer.status_code, answer.json()["error"]["message"]) == (422, "- input: prompt is required\n")


async def test_what_is_no_prediction_is_refused(door: Door, scripted: ScriptedUpstream) -> None:
    for body in ({"id": "../x", "status": "starting"}, {"status": "starting"}, [1], {"id": 7}):
        scripted.enqueue(json_answer(body, status=201))
        async with door.http() as http:
            answer = await http.post("/chat/completions", json=ASK)
        assert answer.status_code == 502
    assert len(scripted.requests) == 4


TURNS = [{"role": "user", "content": [{"type": "text", "text": "A"}]}, {"role": "assistant", "content": "B"}]
TURNS += [{"role": "user", "content": "C"}]
BEGUN = "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nA<|eot_id|>"


@pytest.mark.parametrize(
    ("form", "given"),
    [
        ("", {"prompt": "User: A\n\nAssistant: B\n\nUser: C\n\nAssistant:"}),
        ("messages", {"messages": TURNS}),
        (
            "llama3",
            {
                "prompt": BEGUN + "<|start_header_id|>assistant<|end_header_id|>\n\nB<|eot_id|>"
                "<|start_header_id|>user<|end_header_id|>\n\nC<|eot_id|>"
                "<|start_header_id|>assistant<|end_header_id|>\n\n",
                "prompt_template": "{prompt}",
            },
        ),
        (
            "chatml",
            {
                "prompt": "<|im_start|>user\nA<|im_end|>\n<|im_start|>assistant\nB<|im_end|>\n"
                "<|im_start|>user\nC<|im_end|>\n<|im_start|>assistant\n",
                "prompt_template": "{prompt}",
            },
        ),
    ],
)
async def test_a_conversation_becomes_what_the_model_takes(
    door: Door, scripted: ScriptedUpstream, form: str, given: dict[str, Any]
) -> None:
    scripted.default = json_answer(prediction(scripted, "succeeded", output="x"))
    async with door.http() as http:
        await http.post("/chat/completions", json={"model": f"{form}llama", "messages": TURNS})
    assert scripted.requests[0].json() == {"input": given}


async def test_a_picture_is_refused_with_what_to_do(door: Door, scripted: ScriptedUpstream) -> None:
    picture = [{"type": "image_url", "image_url": {"url": "data:,"}}]
    async with door.http() as http:
        answer = await http.post("/chat/completions", json={**ASK, "messages": [{"role": "user", "content": picture}]})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "messages")
    assert scripted.requests == []


def test_a_prediction_is_priced_by_its_seconds() -> None:
    usage = read_usage({"seconds": 2.5})
    assert usage is not None
    assert cost(usage, Price(second=Decimal("0.000725"))) == Decimal("0.0018125")


def test_an_output_that_is_no_text_is_told_as_json() -> None:
    assert text_of({"a": [1]}) == '{"a":[1]}'
    assert text_of(None) == ""
    assert json.loads(text_of([{"a": 1}])) == [{"a": 1}]
