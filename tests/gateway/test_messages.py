"""/v1/messages as Anthropic's own library uses it: https://docs.anthropic.com/en/api/messages."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anthropic
import pytest
from asgiref.sync import sync_to_async

from tests.gateway import house
from tests.gateway.house import TOKEN, Door, client_key, eventually
from tests.scripted import RESET, SSE_HEADERS, Chunk, Pause, ScriptedUpstream, Step, head, json_answer

MESSAGE: dict[str, Any] = {
    "id": "msg_013Zva2CMHLNnXjNJJKqJ2EF",
    "type": "message",
    "role": "assistant",
    "model": "claude-sonnet-4-5",
    "content": [{"type": "text", "text": "Hi! My name is Claude.", "citations": None}],
    "stop_reason": "end_turn",
    "stop_sequence": None,
    "usage": {
        "input_tokens": 10,
        "cache_read_input_tokens": 30,
        "cache_creation_input_tokens": 5,
        "output_tokens": 25,
    },
}
ASK: dict[str, Any] = {
    "model": "claude",
    "max_tokens": 100,
    "messages": [{"role": "user", "content": "Hello, Claude!"}],
}


HEAD = {"anthropic-beta": "files-api-2025-04-14", "anthropic-version": "2023-06-01"}


def event(kind: str, **fields: Any) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}\n\n".encode()


START = {**MESSAGE, "content": [], "stop_reason": None, "usage": {**MESSAGE["usage"], "output_tokens": 1}}
EVENTS = [
    event("message_start", message=START),
    event("content_block_start", index=0, content_block={"type": "text", "text": ""}),
    event("ping"),
    event("content_block_delta", index=0, delta={"type": "text_delta", "text": "Hi! My name"}),
    event("content_block_delta", index=0, delta={"type": "text_delta", "text": " is Claude."}),
    event("content_block_stop", index=0),
    event("message_delta", delta={"stop_reason": "end_turn", "stop_sequence": None}, usage={"output_tokens": 25}),
    event("message_stop"),
]


def stream(*events: bytes, end: tuple[Step, ...] = (Chunk(),)) -> list[Step]:
    return [head(200, {**SSE_HEADERS, "transfer-encoding": "chunked"}), *map(Chunk, events), *end]


@pytest.fixture
async def claude(transactional_db: None, tmp_path: Path, scripted: ScriptedUpstream) -> AsyncIterator[Door]:
    """`claude` leads to Anthropic's own API, `bearer` to another that has it elsewhere, `fast` to one without."""

    def configure() -> str:
        own = house.provider("anthropic", scripted.url + "/v1", options={"messages": True, "x_api_key": True})
        other = house.provider("other", scripted.url + "/v1", options={"messages": "/anthropic/v1"})
        without = house.provider("lab", scripted.url + "/v1")
        house.alias("fast", (without, "gpt-4o"))
        house.alias("claude", (without, "gpt-4o"), (own, "claude-sonnet-4-5"))
        house.alias("bearer", (other, "deepseek-chat"))
        return house.client_key()[1]

    async with house.open_house(configure, tmp_path) as opened:
        yield opened


def sdk(door: Door, **options: Any) -> anthropic.AsyncAnthropic:
    key = options.pop("api_key", door.key)
    return anthropic.AsyncAnthropic(base_url=door.url.removesuffix("/v1"), api_key=key, max_retries=0, **options)


async def test_a_message_is_the_upstreams_own_under_its_own_credential(
    claude: Door, scripted: ScriptedUpstream
) -> None:
    scripted.default = json_answer(MESSAGE)
    async with sdk(claude, default_headers=HEAD) as client:
        answer = await client.messages.create(**ASK, metadata={"user_id": "anna"})
    assert answer.to_dict() == {**MESSAGE, "usage": answer.usage.to_dict()}
    assert answer._request_id is not None
    [request] = scripted.requests
    assert request.target == "/v1/messages"
    assert request.json() == {**ASK, "model": "claude-sonnet-4-5", "metadata": {"user_id": "anna"}}
    sent = {name.lower(): value for name, value in request.headers}
    assert (sent["x-api-key"], sent["anthropic-beta"], sent["anthropic-version"]) == (
        TOKEN,
        "files-api-2025-04-14",
        "2023-06-01",
    )
    assert "authorization" not in sent
    [row] = await claude.rows(1)
    assert (row.id, row.endpoint, row.provider, row.end_user) == (answer._request_id, "messages", "anthropic", "anna")
    assert (row.tokens_in, row.tokens_cached, row.tokens_out, row.usage_source) == (45, 30, 25, "provider")


async def test_another_provider_takes_a_bearer_token_elsewhere(claude: Door, scripted: ScriptedUpstream) -> None:
    scripted.default = json_answer(MESSAGE)
    async with claude.http() as http:
        answer = await http.post("/messages?beta=true", json={**ASK, "model": "bearer"})
    assert answer.status_code == 200
    [request] = scripted.requests
    assert (request.target, request.header("authorization")) == ("/anthropic/v1/messages?beta=true", f"Bearer {TOKEN}")
    assert request.header("anthropic-version") == "2023-06-01"


async def test_a_stream_is_passed_byte_for_byte_and_its_usage_is_read(claude: Door, scripted: ScriptedUpstream) -> None:
    scripted.default = stream(*EVENTS)
    async with claude.http() as http:
        raw = await http.post("/messages", json={**ASK, "stream": True})
    async with sdk(claude) as client, client.messages.stream(**ASK) as events:
        text = "".join([part async for part in events.text_stream])
    assert raw.content == b"".join(EVENTS)
    assert text == "Hi! My name is Claude."
    rows = await claude.rows(2)
    assert {(row.tokens_in, row.tokens_cached, row.tokens_out, row.usage_source, row.outcome) for row in rows} == {
        (45, 30, 25, "provider", "ok")
    }


async def test_a_stream_that_breaks_off_raises_in_the_library(claude: Door, scripted: ScriptedUpstream) -> None:
    for end in ((Pause(0.05), RESET), (Chunk(),)):
        scripted.default = stream(*EVENTS[:5], end=end)
        async with sdk(claude) as client:
            with pytest.raises(anthropic.APIStatusError, match=r"broke off|before its answer was complete"):
                async for _ in await client.messages.create(**ASK, stream=True):
                    pass
    rows = await claude.rows(2)
    # The prompt is the provider's count, the answer the text that came: 22 bytes.
    assert {(row.outcome, row.tokens_in, row.tokens_out) for row in rows} == {("truncated", 45, 6)}


async def test_an_error_that_a_tool_tells_of_is_no_error_of_the_stream(
    claude: Door, scripted: ScriptedUpstream
) -> None:
    told = {"type": "tool_result", "content": [{"type": "error", "message": "no such file"}]}
    events = [*EVENTS[:-2], event("content_block_start", index=1, content_block=told), *EVENTS[-2:]]
    scripted.default = stream(*events)
    async with claude.http() as http:
        raw = await http.post("/messages", json={**ASK, "stream": True})
    assert raw.content == b"".join(events)
    [row] = await claude.rows(1)
    assert row.outcome == "ok"


async def test_an_error_of_the_upstream_in_a_stream_is_passed_on(claude: Door, scripted: ScriptedUpstream) -> None:
    broken = event("error", error={"type": "overloaded_error", "message": "Overloaded"})
    scripted.default = stream(*EVENTS[:4], broken)
    async with claude.http() as http:
        raw = await http.post("/messages", json={**ASK, "stream": True})
    assert raw.content == b"".join(EVENTS[:4]) + broken
    [row] = await claude.rows(1)
    assert row.outcome == "upstream_error"


async def test_a_client_that_leaves_early_pays_for_the_whole_prompt(claude: Door, scripted: ScriptedUpstream) -> None:
    scripted.default = stream(*EVENTS[:5], end=(Pause(5),))
    async with claude.http() as http, http.stream("POST", "/messages", json={**ASK, "stream": True}) as answer:
        async for part in answer.aiter_bytes():
            if b"is Claude" in part:
                break
    assert await eventually(lambda: scripted.open_connections == 0)
    [row] = await claude.rows(1)
    assert (row.outcome, row.tokens_in, row.tokens_out, row.usage_source) == ("client_cancelled", 45, 6, "estimated")


async def test_counting_tokens_goes_the_same_way(claude: Door, scripted: ScriptedUpstream) -> None:
    scripted.default = json_answer({"input_tokens": 14})
    async with sdk(claude) as client:
        counted = await client.messages.count_tokens(model="claude", messages=ASK["messages"])
    assert counted.input_tokens == 14
    [request] = scripted.requests
    assert request.target == "/v1/messages/count_tokens"
    assert (request.json()["model"], request.header("x-api-key")) == ("claude-sonnet-4-5", TOKEN)


async def test_our_own_refusals_have_anthropics_shape(claude: Door, scripted: ScriptedUpstream) -> None:
    bound = (await sync_to_async(client_key)("bound", endpoints=["embeddings"]))[1]
    slow = (await sync_to_async(client_key)("slow", rpm=1))[1]
    scripted.default = json_answer(MESSAGE)
    found = {}
    for name, key, ask, kind in (
        ("authentication_error", "sk-wrong-000000000000000", ASK, anthropic.AuthenticationError),
        ("not_found_error", claude.key, {**ASK, "model": "nobody"}, anthropic.NotFoundError),
        ("not_found_error", claude.key, {**ASK, "model": "fast"}, anthropic.NotFoundError),
        ("permission_error", bound, ASK, anthropic.PermissionDeniedError),
        ("invalid_request_error", claude.key, {**ASK, "max_tokens": -1}, anthropic.BadRequestError),
        ("rate_limit_error", slow, ASK, anthropic.RateLimitError),
    ):
        async with sdk(claude, api_key=key) as client:
            if key == slow:
                await client.messages.create(**ASK)
            with pytest.raises(kind) as caught:
                await client.messages.create(**ask)
        body = caught.value.body
        assert isinstance(body, dict)
        assert (body["type"], body["error"]["type"]) == ("error", name)
        assert body["request_id"] == caught.value.request_id
        found[name] = body["error"]["message"]
    assert found["not_found_error"] == "No provider of `fast` offers the Messages API."


async def test_an_upstreams_refusal_keeps_its_type(claude: Door, scripted: ScriptedUpstream) -> None:
    for status, kind in ((529, "overloaded_error"), (400, "invalid_request_error"), (413, "request_too_large")):
        scripted.default = json_answer({"type": "error", "error": {"type": kind, "message": "no"}}, status=status)
        async with claude.http() as http:
            answer = await http.post("/messages", json=ASK)
        assert (answer.status_code, answer.json()["error"]) == (status, {"type": kind, "message": "no"})


async def test_the_models_have_the_shape_of_whoever_asks(claude: Door, scripted: ScriptedUpstream) -> None:
    async with sdk(claude) as client:
        page = await client.models.list()
        one = await client.models.retrieve("claude")
    assert [(model.id, model.type, model.display_name) for model in page.data] == [
        ("bearer", "model", "bearer"), ("claude", "model", "claude"), ("fast", "model", "fast"),
    ]  # fmt: skip
    assert (page.has_more, page.first_id, page.last_id) == (False, "bearer", "fast")
    assert one.id == "claude"
    async with claude.client() as other:
        assert {model.object async for model in other.models.list()} == {"model"}


async def test_a_batch_names_its_models_where_nobody_looks_and_wants_a_key_that_may_use_all_of_them(
    claude: Door, scripted: ScriptedUpstream
) -> None:
    scripted.default = json_answer({"id": "msgbatch_1", "type": "message_batch", "processing_status": "in_progress"})
    body = {"requests": [{"custom_id": "1", "params": {**ASK, "model": "claude-opus-4-5"}}]}
    statuses = []
    for provider, given in (
        ("anthropic", {"aliases": ["claude"]}),
        ("anthropic", {"endpoints": ["messages"]}),
        ("anthropic", {"endpoints": ["batches"]}),
        ("other", {}),
    ):
        token = (await sync_to_async(client_key)("narrow", **given, default_provider=provider))[1]
        async with claude.http() as http:
            http.headers["authorization"] = f"Bearer {token}"
            statuses.append((await http.post("/messages/batches", json=body, headers=HEAD)).status_code)
    assert statuses == [403, 403, 200, 200]
    targets = [request.target for request in scripted.requests]
    assert targets == ["/v1/messages/batches", "/anthropic/v1/messages/batches"]
    assert [row.endpoint for row in await claude.rows(2)] == ["batches"] * 2
