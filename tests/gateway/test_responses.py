"""/v1/responses: https://platform.openai.com/docs/api-reference/responses, whole and streamed."""

import json
from decimal import Decimal
from typing import Any

import openai
import pytest
from asgiref.sync import sync_to_async

from ledger.models import PriceRow
from tests.gateway.house import TOKEN, Door, client_key, eventually
from tests.scripted import RESET, SSE_HEADERS, Chunk, Pause, ScriptedUpstream, Step, head, json_answer

USAGE = {
    "input_tokens": 36,
    "input_tokens_details": {"cached_tokens": 12, "cache_write_tokens": 0},
    "output_tokens": 87,
    "output_tokens_details": {"reasoning_tokens": 5},
    "total_tokens": 123,
}
RESPONSE: dict[str, Any] = {
    "id": "resp_67ccd2bed1ec8190b14f964abc0542670bb6a6b452d3795b",
    "object": "response",
    "created_at": 1741476542,
    "status": "completed",
    "error": None,
    "incomplete_details": None,
    "instructions": None,
    "max_output_tokens": None,
    "model": "gpt-4.1-2025-04-14",
    "output": [
        {
            "type": "message",
            "id": "msg_67ccd2bf17f0819081ff3bb2cf6508e60bb6a6b452d3795b",
            "status": "completed",
            "role": "assistant",
            "content": [{"type": "output_text", "text": "In a peaceful grove.", "annotations": [], "logprobs": []}],
        }
    ],
    "parallel_tool_calls": True,
    "previous_response_id": None,
    "reasoning": {"effort": None, "summary": None},
    "store": True,
    "temperature": 1.0,
    "text": {"format": {"type": "text"}},
    "tool_choice": "auto",
    "tools": [],
    "top_p": 1.0,
    "truncation": "disabled",
    "usage": USAGE,
    "user": None,
    "metadata": {},
}
STARTED = {**RESPONSE, "status": "in_progress", "output": [], "usage": None}


def event(kind: str, number: int, **fields: Any) -> bytes:
    data = {"type": kind, "sequence_number": number, **fields}
    return f"event: {kind}\ndata: {json.dumps(data, separators=(',', ':'))}\n\n".encode()


def delta(number: int, text: str) -> bytes:
    place = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
    return event("response.output_text.delta", number, **place, delta=text, logprobs=[], obfuscation="x" * number)


MESSAGE = RESPONSE["output"][0]
EVENTS = [
    event("response.created", 0, response=STARTED),
    event("response.in_progress", 1, response=STARTED),
    event("response.output_item.added", 2, output_index=0, item={**MESSAGE, "content": [], "status": "in_progress"}),
    event(
        "response.content_part.added",
        3,
        item_id="msg_1",
        output_index=0,
        content_index=0,
        part={"type": "output_text", "text": "", "annotations": [], "logprobs": []},
    ),
    delta(4, "In a peaceful"),
    delta(5, ' grove "usage":{'),
    event("response.output_item.done", 6, output_index=0, item=MESSAGE),
    event("response.completed", 7, response=RESPONSE),
]


def stream(*events: bytes, end: tuple[Step, ...] = (Chunk(),)) -> list[Step]:
    return [head(200, {**SSE_HEADERS, "transfer-encoding": "chunked"}), *map(Chunk, events), *end]


async def told(door: Door, **fields: Any) -> bytes:
    async with door.http() as http:
        answer = await http.post("/responses", json={"model": "fast", "input": "Tell", "stream": True, **fields})
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
    return answer.content


async def test_a_response_is_the_upstreams_own_and_its_usage_is_counted(door: Door, scripted: ScriptedUpstream) -> None:
    scripted.default = json_answer(RESPONSE)
    await sync_to_async(PriceRow.objects.create)(
        model="gpt-4o", input=Decimal(1), cached=Decimal("0.5"), output=Decimal(2)
    )
    await door.engine._price()
    async with door.client() as client:
        answer = await client.responses.create(model="fast", input="Tell me a story", safety_identifier="anna")
    assert answer.to_dict() == RESPONSE
    [request] = scripted.requests
    assert (request.method, request.target) == ("POST", "/v1/responses")
    assert request.json() == {"model": "gpt-4o", "input": "Tell me a story", "safety_identifier": "anna"}
    [row] = await door.rows(1)
    assert (row.endpoint, row.alias, row.upstream_model, row.stream) == ("responses", "fast", "gpt-4o", False)
    assert (row.tokens_in, row.tokens_cached, row.tokens_out, row.tokens_reasoning) == (36, 12, 87, 5)
    assert (row.usage_source, row.end_user) == ("provider", "anna")
    assert row.cost == (24 * Decimal(1) + 12 * Decimal("0.5") + 87 * Decimal(2)) / 1_000_000


async def test_case_22_a_stream_is_passed_byte_for_byte_and_the_sdk_reads_it(
    door: Door, scripted: ScriptedUpstream
) -> None:
    whole = b"".join(EVENTS)
    scripted.enqueue(
        stream(*EVENTS),
        stream(*(whole[start : start + 7] for start in range(0, len(whole), 7))),
        stream(*EVENTS, b"data: [DONE]\n\n"),
        stream(*EVENTS),
    )
    assert await told(door) == whole
    assert scripted.requests[0].body == b'{"model":"gpt-4o","input":"Tell","stream":true}'
    assert await told(door) == whole
    assert await told(door) == whole + b"data: [DONE]\n\n"
    async with door.client() as client, client.responses.stream(model="fast", input="Tell") as events:
        kinds = [event.type async for event in events]
        final = await events.get_final_response()
    assert kinds[0] == "response.created"
    assert kinds[-1] == "response.completed"
    assert final.output_text == "In a peaceful grove."
    rows = await door.rows(4)
    assert {(row.stream, row.outcome, row.tokens_in, row.tokens_out, row.usage_source) for row in rows} == {
        (True, "ok", 36, 87, "provider")
    }


async def test_an_incomplete_response_ends_its_stream_too(door: Door, scripted: ScriptedUpstream) -> None:
    last = event("response.incomplete", 7, response={**RESPONSE, "status": "incomplete"})
    scripted.default = stream(*EVENTS[:-1], last)
    assert (await told(door)).endswith(last)
    [row] = await door.rows(1)
    assert (row.outcome, row.tokens_out) == ("ok", 87)


async def test_a_failed_response_is_passed_on_and_taken_down(door: Door, scripted: ScriptedUpstream) -> None:
    error = {"code": "server_error", "message": f"it broke; key {TOKEN}"}
    failed = {**RESPONSE, "status": "failed", "error": error, "usage": None}
    scripted.enqueue(stream(*EVENTS[:3], event("response.failed", 3, response=failed), b"event: late\ndata: {}\n\n"))
    got = await told(door)
    assert got == b"".join(EVENTS[:3]) + event("response.failed", 3, response=failed).replace(TOKEN.encode(), b"***")
    [row] = await door.rows(1)
    assert (row.outcome, row.error_code) == ("upstream_error", "server_error")


async def test_an_error_in_the_first_event_is_the_answers_status(door: Door, scripted: ScriptedUpstream) -> None:
    said = {"code": "rate_limit_exceeded", "message": "slow down", "param": None}
    scripted.default = stream(event("error", 0, **said))
    async with door.client(max_retries=0) as client:
        with pytest.raises(openai.APIStatusError) as caught:
            await client.responses.create(model="fast", input="Tell", stream=True)
    assert (caught.value.status_code, caught.value.code) == (502, "rate_limit_exceeded")
    assert caught.value.body == {
        "message": "slow down",
        "type": "upstream_error",
        "param": None,
        "code": "rate_limit_exceeded",
    }


@pytest.mark.parametrize(
    "end", [(RESET,), (Chunk(),), (Chunk(b'event: response.output_text.delta\ndata: {"ty'), Chunk())]
)
async def test_a_stream_without_its_end_is_an_error_that_the_sdk_raises(
    door: Door, scripted: ScriptedUpstream, end: tuple[Step, ...]
) -> None:
    scripted.default = stream(*EVENTS[:6], end=(Pause(0.05), *end))
    got = await told(door)
    assert got.startswith(b"".join(EVENTS[:6]))
    last = got[len(b"".join(EVENTS[:6])) :]
    assert last.startswith(b'event: error\ndata: {"type":"error","error":{"message":"')
    assert b'"code":"stream_interrupted"' in last
    assert last.count(b"\n\n") == 1
    async with door.client() as client:
        with pytest.raises(openai.APIError) as caught:
            async for _ in await client.responses.create(model="fast", input="Tell", stream=True):
                pass
    assert caught.value.code == "stream_interrupted"
    rows = await door.rows(2)
    assert {(row.outcome, row.tokens_out, row.usage_source) for row in rows} == {("truncated", 8, "estimated")}


async def test_a_client_that_leaves_pays_for_the_text_that_it_was_sent(door: Door, scripted: ScriptedUpstream) -> None:
    scripted.default = stream(*EVENTS[:6], end=(Pause(5), Chunk()))
    async with (
        door.http() as http,
        http.stream("POST", "/responses", json={"model": "fast", "input": "x" * 40, "stream": True}) as answer,
    ):
        got = b""
        async for part in answer.aiter_bytes():
            got += part
            if got.count(b"\n\n") == 6:
                break
    assert await eventually(lambda: scripted.open_connections == 0)
    [row] = await door.rows(1)
    assert (row.outcome, row.tokens_in, row.tokens_out, row.usage_source) == ("client_cancelled", 10, 8, "estimated")


async def test_the_answers_bound_is_the_keys_and_the_budgets(door: Door, scripted: ScriptedUpstream) -> None:
    scripted.default = json_answer(RESPONSE)
    await sync_to_async(PriceRow.objects.create)(model="*", input=Decimal(1), output=Decimal(1))
    await door.engine._price()
    capped = (await sync_to_async(client_key)("capped", max_tokens=50))[1]
    paying = (await sync_to_async(client_key)("paying", budget="1.00/day"))[1]
    async with door.http() as http:
        http.headers["authorization"] = f"Bearer {capped}"
        plain = await http.post("/responses", json={"model": "fast", "input": "a"})
        greedy = await http.post("/responses", json={"model": "fast", "input": "a", "max_output_tokens": 51})
        http.headers["authorization"] = f"Bearer {paying}"
        budgeted = await http.post("/responses", json={"model": "fast", "input": "a"})
    assert (plain.status_code, budgeted.status_code) == (200, 200)
    assert (greedy.status_code, greedy.json()["error"]["param"]) == (400, "max_output_tokens")
    assert [request.json()["max_output_tokens"] for request in scripted.requests] == [50, 4096]


async def test_a_stored_prompt_needs_no_model(door: Door, scripted: ScriptedUpstream) -> None:
    scripted.default = json_answer(RESPONSE)
    async with door.client() as client:
        await client.responses.create(prompt={"id": "pmpt_1", "version": "2"})
    assert scripted.requests[0].json() == {"prompt": {"id": "pmpt_1", "version": "2"}}
    [row] = await door.rows(1)
    assert (row.provider, row.model, row.tokens_out) == ("lab", "", 87)


async def test_what_is_done_with_a_response_by_its_id_is_passed_on_and_costs_nothing(
    door: Door, scripted: ScriptedUpstream
) -> None:
    page = {"object": "list", "data": [], "first_id": "a", "last_id": "a", "has_more": False}
    scripted.enqueue(
        json_answer(RESPONSE),
        json_answer(RESPONSE),
        json_answer(page),
        stream(*EVENTS[5:]),
        json_answer({"id": "resp_1", "object": "response", "deleted": True}),
        json_answer({"object": "response.input_tokens", "input_tokens": 11}),
        json_answer({"id": "resp_2", "object": "response.compaction", "created_at": 1, "output": [], "usage": USAGE}),
    )
    async with door.client() as client:
        await client.responses.retrieve("resp_1", include=["reasoning.encrypted_content"])
        await client.responses.cancel("resp_1")
        [item async for item in client.responses.input_items.list("resp_1", limit=2)]
        seen = [event async for event in await client.responses.retrieve("resp_1", stream=True, starting_after=4)]
        await client.responses.delete("resp_1")
        counted = await client.responses.input_tokens.count(model="fast", input="Tell")
        await client.responses.compact(model="fast", previous_response_id="resp_1")
    assert [event.sequence_number for event in seen] == [5, 6, 7]
    assert counted.input_tokens == 11
    assert [(request.method, request.target) for request in scripted.requests] == [
        ("GET", "/v1/responses/resp_1?include%5B%5D=reasoning.encrypted_content"),
        ("POST", "/v1/responses/resp_1/cancel"),
        ("GET", "/v1/responses/resp_1/input_items?limit=2"),
        ("GET", "/v1/responses/resp_1?starting_after=4&stream=true"),
        ("DELETE", "/v1/responses/resp_1"),
        ("POST", "/v1/responses/input_tokens"),
        ("POST", "/v1/responses/compact"),
    ]
    assert scripted.requests[5].json() == {"model": "gpt-4o", "input": "Tell"}
    rows = await door.rows(7)
    looks = [row for row in rows if row.upstream_model == "" and row.usage_source == "none"]
    assert [(row.tokens_out, row.cost) for row in looks if row.outcome == "ok"][:1] == [(0, Decimal(0))]
    assert rows[3].stream
    assert (rows[6].upstream_model, rows[6].tokens_out) == ("gpt-4o", 87)


async def test_case_24_an_event_of_a_megabyte_passes(door: Door, scripted: ScriptedUpstream) -> None:
    large = event("response.image_generation_call.partial_image", 5, partial_image_b64="A" * 2**20)
    scripted.default = stream(*EVENTS[:5], large, *EVENTS[6:])
    assert large in await told(door)


async def test_case_21_json_where_a_stream_was_asked_for_becomes_the_stream(
    door: Door, scripted: ScriptedUpstream
) -> None:
    call = {"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": "f", "arguments": '{"a":1}'}
    whole = {**RESPONSE, "output": [MESSAGE, {**call, "status": "completed"}]}
    waiting = {**RESPONSE, "status": "queued", "output": [], "usage": None}
    scripted.enqueue(json_answer(whole), json_answer(whole), json_answer(waiting))
    raw = await told(door)
    async with door.client() as client, client.responses.stream(model="fast", input="Tell") as events:
        seen = [event async for event in events]
        final = await events.get_final_response()
    async with door.http() as http:
        queued = await http.post("/responses", json={"model": "fast", "input": "a", "stream": True, "background": True})
    numbers = [json.loads(event.partition(b"data: ")[2])["sequence_number"] for event in raw.split(b"\n\n")[:-1]]
    assert numbers == list(range(13))
    assert raw.startswith(b'event: response.created\ndata: {"type":"response.created","sequence_number":0,')
    assert [event.delta for event in seen if event.type == "response.output_text.delta"] == ["In a peaceful grove."]
    assert [event.delta for event in seen if event.type == "response.function_call_arguments.delta"] == ['{"a":1}']
    assert final.to_dict()["output"][0]["content"][0]["text"] == "In a peaceful grove."  # type: ignore[index]
    assert queued.json() == waiting
    rows = await door.rows(3)
    assert [(row.tokens_out, row.outcome) for row in rows[:2]] == [(87, "ok")] * 2


async def test_a_silent_stream_is_kept_alive_by_comments_only(
    door: Door, scripted: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.delivery.PING_AFTER", 0.3)
    scripted.default = stream(EVENTS[0], end=(Pause(1.2), *map(Chunk, EVENTS[1:]), Chunk()))
    got = await told(door)
    assert got.replace(b": ping\n\n", b"") == b"".join(EVENTS)
    assert b": ping\n\n" in got
