"""The openai package, sync and async, unchanged but for base URL and key: what a provider answers reaches its user."""

import base64
import json
import struct
from collections import defaultdict
from typing import Any

import openai
import pytest

from tests.clients.sdk import MESSAGES, Sdk
from tests.clients.served import Gateway
from tests.gateway import golden
from tests.scripted import Received, ScriptedUpstream, Step, event, json_answer, sse

pytestmark = pytest.mark.asyncio(loop_scope="session")

WEATHER: Any = {
    "type": "function",
    "function": {"name": "get_weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}},
}


def stream(client: Any, **ask: Any) -> Any:
    return client.chat.completions.create(model="fast", messages=MESSAGES, stream=True, **ask)


def texts(parts: list[Any]) -> dict[int, str]:
    """The text of each choice."""
    found: defaultdict[int, str] = defaultdict(str)
    for part in parts:
        for choice in part.choices:
            found[choice.index] += choice.delta.content or ""
    return dict(found)


async def raw_stream(gateway: Gateway, **ask: Any) -> bytes:
    async with gateway.http() as http:
        body = {"model": "fast", "messages": MESSAGES, "stream": True, **ask}
        return (await http.post("/chat/completions", json=body)).content


# --- whole answers ----------------------------------------------------------------------------------------------------


async def test_case_01_a_completion_is_what_the_upstream_said_with_our_request_id(
    sdk: Sdk, scripted: ScriptedUpstream
) -> None:
    scripted.default = json_answer(golden.COMPLETION, headers={"x-request-id": "req_of_the_provider"})
    answer = await sdk.get(lambda client: client.chat.completions.create(model="fast", messages=MESSAGES))
    assert answer.to_dict() == golden.COMPLETION
    assert answer._request_id.startswith("req_")
    assert answer._request_id != "req_of_the_provider"
    assert scripted.requests[0].json() == {"messages": MESSAGES, "model": "gpt-4o"}


async def test_the_raw_response_has_the_headers_and_parses_to_the_same(sdk: Sdk, scripted: ScriptedUpstream) -> None:
    scripted.default = json_answer(golden.COMPLETION)
    raw = await sdk.get(
        lambda client: client.chat.completions.with_raw_response.create(model="fast", messages=MESSAGES)
    )
    assert raw.status_code == 200
    assert raw.headers["content-type"] == "application/json"
    assert raw.headers["x-gateway-provider"] == "lab"
    assert raw.request_id == raw.headers["x-request-id"] == raw.parse()._request_id
    assert raw.parse().to_dict() == golden.COMPLETION
    assert raw.retries_taken == 0


async def test_a_text_completion_whole_and_streamed(sdk: Sdk, scripted: ScriptedUpstream) -> None:
    pieces = [
        {**golden.TEXT_COMPLETION, "choices": [{"text": text, "index": 0, "logprobs": None, "finish_reason": end}]}
        for text, end in (("This is", None), (" a test", "length"))
    ]
    for piece in pieces:
        del piece["usage"]
    scripted.enqueue(json_answer(golden.TEXT_COMPLETION), sse(*pieces))
    whole = await sdk.get(lambda client: client.completions.create(model="fast", prompt="Say this"))
    parts = await sdk.every(lambda client: client.completions.create(model="fast", prompt="Say this", stream=True))
    assert whole.to_dict() == golden.TEXT_COMPLETION
    assert [part.to_dict() for part in parts] == pieces
    assert [request.target for request in scripted.requests] == ["/v1/completions"] * 2


VECTOR = [0.25, -0.5, 1.0]
PACKED = base64.b64encode(struct.pack("<3f", *VECTOR)).decode()


def embeddings(request: Received) -> list[Step]:
    """OpenAI's way: base64 for who asks for it."""
    packed = request.json().get("encoding_format") == "base64"
    data = [{"object": "embedding", "embedding": PACKED if packed else VECTOR, "index": 0}]
    return json_answer({**golden.EMBEDDINGS, "data": data})


async def test_case_40_who_asks_for_base64_gets_it_from_a_provider_that_does_not_know_it(
    gateway: Gateway, scripted: ScriptedUpstream
) -> None:
    scripted.default = json_answer(golden.EMBEDDINGS)
    async with gateway.http() as http:
        body = {"model": "fast", "input": "hello"}
        packed = await http.post("/embeddings", json={**body, "encoding_format": "base64"})
        plain = await http.post("/embeddings", json=body)
    data = [{"object": "embedding", "embedding": PACKED, "index": 0}]
    assert packed.json() == {**golden.EMBEDDINGS, "data": data}
    assert plain.json() == golden.EMBEDDINGS


@pytest.mark.parametrize("provider", [embeddings, json_answer(golden.EMBEDDINGS)], ids=["honours", "ignores"])
async def test_case_40_vectors_are_the_same_whether_base64_is_honoured_or_ignored(
    sdk: Sdk, scripted: ScriptedUpstream, provider: Any
) -> None:
    scripted.default = provider
    by_default = await sdk.get(lambda client: client.embeddings.create(model="fast", input="hello"))
    as_floats = await sdk.get(
        lambda client: client.embeddings.create(model="fast", input="hello", encoding_format="float")
    )
    assert by_default.data[0].embedding == as_floats.data[0].embedding == VECTOR
    assert by_default.usage.total_tokens == 5
    assert [request.json()["encoding_format"] for request in scripted.requests] == ["base64", "float"]


async def test_case_07_and_08_the_models_are_listed_and_found_by_name(sdk: Sdk) -> None:
    listed = await sdk.every(lambda client: client.models.list())
    found = await sdk.get(lambda client: client.models.retrieve("lab/Llama-3:free"))
    # Beside them stands what the provider of `lab/*` lists at times.
    assert [model.id for model in listed if "/" not in model.id] == ["fast", "gone", "slow", "spared"]
    assert {(model.object, model.owned_by, type(model.created)) for model in listed} == {("model", "gateway", int)}
    assert (found.id, found.object) == ("lab/Llama-3:free", "model")
    with pytest.raises(openai.NotFoundError) as caught:
        await sdk.get(lambda client: client.models.retrieve("other/Llama-3:free"))
    assert caught.value.code == "model_not_found"


# --- streams ----------------------------------------------------------------------------------------------------------


async def test_a_stream_brings_the_upstreams_chunks_and_no_usage_that_was_not_asked_for(
    sdk: Sdk, scripted: ScriptedUpstream
) -> None:
    scripted.default = sse(*golden.chunks("Hel", "lo"))
    parts = await sdk.every(stream)
    assert [part.to_dict() for part in parts] == golden.chunks("Hel", "lo", usage=False)
    assert scripted.requests[0].json()["stream_options"] == {"include_usage": True}


async def test_fields_that_are_null_are_as_good_as_left_out(sdk: Sdk, scripted: ScriptedUpstream) -> None:
    scripted.default = sse(*golden.chunks("Hel", "lo"))
    parts = await sdk.every(lambda client: stream(client, stream_options=None, n=None))
    assert [part.to_dict() for part in parts] == golden.chunks("Hel", "lo", usage=False)
    assert scripted.requests[0].json()["stream_options"] == {"include_usage": True}


async def test_the_stream_helper_gathers_the_final_completion(sdk: Sdk, scripted: ScriptedUpstream) -> None:
    scripted.default = sse(*golden.chunks("Hel", "lo"))
    options = {"include_usage": True}
    events, final = await sdk.conversation(model="fast", messages=MESSAGES, stream_options=options)
    assert [part.delta for part in events if part.type == "content.delta"] == ["", "Hel", "lo"]
    assert final.choices[0].message.content == "Hello"
    assert final.choices[0].finish_reason == "stop"
    assert final.usage.to_dict() == golden.USAGE


def calls(*deltas: dict[str, Any]) -> list[dict[str, Any]]:
    """A stream of tool call pieces."""
    first = golden.chunk({"role": "assistant", "content": None})
    return [first, *(golden.chunk({"tool_calls": [delta]}) for delta in deltas), golden.chunk({}, "tool_calls")]


async def test_tool_calls_in_a_stream_are_put_together(sdk: Sdk, scripted: ScriptedUpstream) -> None:
    scripted.default = sse(
        *calls(
            {"index": 0, "id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": ""}},
            {"index": 0, "function": {"arguments": '{"city":'}},
            {"index": 0, "function": {"arguments": '"Paris"}'}},
            {"index": 1, "id": "call_2", "type": "function", "function": {"name": "get_weather", "arguments": "{}"}},
        )
    )
    events, final = await sdk.conversation(model="fast", messages=MESSAGES, tools=[WEATHER])
    found = [(call.id, call.function.name, call.function.arguments) for call in final.choices[0].message.tool_calls]
    assert found == [("call_1", "get_weather", '{"city":"Paris"}'), ("call_2", "get_weather", "{}")]
    assert final.choices[0].finish_reason == "tool_calls"
    done = [part.arguments for part in events if part.type == "tool_calls.function.arguments.done"]
    assert done == ['{"city":"Paris"}', "{}"]
    assert scripted.requests[0].json()["tools"] == [WEATHER]


async def test_case_15_a_stream_without_roles_gets_one_for_each_choice(sdk: Sdk, scripted: ScriptedUpstream) -> None:
    scripted.default = sse(
        *(golden.chunk({"content": text}, index=index) for index, text in ((0, "a"), (1, "x"), (0, "b"), (1, "y"))),
        *(golden.chunk({}, "stop", index=index) for index in (0, 1)),
    )
    parts = await sdk.every(lambda client: stream(client, n=2))
    assert [(part.choices[0].index, part.choices[0].delta.role) for part in parts] == [
        (0, "assistant"), (1, "assistant"), (0, None), (1, None), (0, None), (1, None),
    ]  # fmt: skip
    assert texts(parts) == {0: "ab", 1: "xy"}
    _, final = await sdk.conversation(model="fast", messages=MESSAGES, n=2)
    assert [choice.message.role for choice in final.choices] == ["assistant"] * 2


async def test_case_16_usage_on_the_last_chunk_becomes_a_chunk_of_its_own(sdk: Sdk, scripted: ScriptedUpstream) -> None:
    *parts, last = golden.chunks("Hel", "lo", usage=False)
    scripted.default = sse(*parts, {**last, "usage": golden.USAGE})
    seen = await sdk.every(lambda client: stream(client, stream_options={"include_usage": True}))
    assert [(len(part.choices), part.usage is not None) for part in seen] == [(1, False)] * 4 + [(0, True)]
    # What LangChain does: it adds up whatever usage the chunks bring.
    assert sum(part.usage.total_tokens for part in seen if part.usage) == golden.USAGE["total_tokens"]
    assert seen[-1].id == golden.FRAME["id"]


async def test_case_16_usage_that_grows_with_each_chunk_is_sent_once(sdk: Sdk, scripted: ScriptedUpstream) -> None:
    parts = [
        {**part, "usage": {"prompt_tokens": 19, "completion_tokens": count, "total_tokens": 19 + count}}
        for count, part in enumerate(golden.chunks("Hel", "lo", usage=False))
    ]
    scripted.default = sse(*parts)
    seen = await sdk.every(lambda client: stream(client, stream_options={"include_usage": True}))
    assert [part.usage.to_dict() for part in seen if part.usage] == [golden.USAGE]


async def test_case_45_three_choices_keep_their_texts_apart_with_one_usage_and_one_end(
    gateway: Gateway, sdk: Sdk, scripted: ScriptedUpstream
) -> None:
    quiet: dict[str, Any] = {"usage": None}
    scripted.default = sse(
        *(golden.chunk({"role": "assistant", "content": ""}, index=index, **quiet) for index in (0, 2, 1)),
        *(golden.chunk({"content": f"{index}{step}"}, index=index, **quiet) for step in "abc" for index in (2, 0, 1)),
        *(golden.chunk({}, "stop", index=index, **quiet) for index in (1, 0, 2)),
        {**golden.FRAME, "choices": [], "usage": golden.USAGE},
    )
    ask = {"n": 3, "stream_options": {"include_usage": True}}
    parts = await sdk.every(lambda client: stream(client, **ask))
    assert texts(parts) == {0: "0a0b0c", 1: "1a1b1c", 2: "2a2b2c"}
    ends = [(choice.index, choice.finish_reason) for part in parts for choice in part.choices if choice.finish_reason]
    assert ends == [(1, "stop"), (0, "stop"), (2, "stop")]
    assert [part.usage.total_tokens for part in parts if part.usage] == [22]
    raw = await raw_stream(gateway, **ask)
    assert raw.count(b"data: [DONE]\n\n") == 1
    assert raw.endswith(b"data: [DONE]\n\n")


# --- fields that the gateway does not know ----------------------------------------------------------------------------

LOGPROBS = {
    "content": [{"token": "Hi", "logprob": -0.31725305, "bytes": [72, 105], "top_logprobs": []}],
    "refusal": None,
}
CITATION = {"type": "url_citation", "url_citation": {"url": "https://example.com", "start_index": 0, "end_index": 2}}
GROQ: dict[str, Any] = {"x_groq": {"id": "req_01jbd6g2qdfw2adyrt2az8hz4w"}}
GOOGLE: dict[str, Any] = {"extra_content": {"google": {"thought_signature": "CpMDAdHtim=="}}}


def unusual() -> list[dict[str, Any]]:
    """A stream with all that OpenAI, Groq, DeepSeek and Gemini add to a chunk."""
    more: dict[str, Any] = {"service_tier": "default", "obfuscation": "p7Kx"}
    parts = [
        golden.chunk({"role": "assistant", "content": "", "refusal": None}, **more, **GROQ),
        golden.chunk({"reasoning_content": "Let me think", **GOOGLE}, **more),
        golden.chunk({"content": "Hi", "annotations": [CITATION]}, **more),
        golden.chunk({"refusal": "I cannot"}, **more),
        golden.chunk({}, "stop", **more),
    ]
    parts[2]["choices"][0]["logprobs"] = LOGPROBS
    return parts


async def test_case_46_fields_of_one_provider_reach_the_client_of_a_stream_unchanged(
    gateway: Gateway, sdk: Sdk, scripted: ScriptedUpstream
) -> None:
    scripted.default = sse(*unusual())
    assert [part.to_dict() for part in await sdk.every(stream)] == unusual()
    assert await raw_stream(gateway) == b"".join(map(event, unusual())) + b"data: [DONE]\n\n"


async def test_case_46_fields_of_one_provider_reach_the_client_of_a_whole_answer_unchanged(
    gateway: Gateway, sdk: Sdk, scripted: ScriptedUpstream
) -> None:
    message = {
        "role": "assistant", "content": "Hi", "refusal": None, "annotations": [CITATION],
        "reasoning_content": "Let me think", **GOOGLE,
    }  # fmt: skip
    choice = {"index": 0, "message": message, "logprobs": LOGPROBS, "finish_reason": "stop"}
    answer = {**golden.COMPLETION, "choices": [choice], **GROQ, "cost": 1e-7, "seed": 2**60}
    scripted.default = json_answer(answer)
    seen = await sdk.get(lambda client: client.chat.completions.create(model="fast", messages=MESSAGES))
    assert seen.to_dict() == answer
    async with gateway.http() as http:
        raw = await http.post("/chat/completions", json={"model": "fast", "messages": MESSAGES})
    assert raw.content == json.dumps(answer, separators=(",", ":")).encode()


async def test_case_02_what_the_sdk_adds_to_a_body_reaches_the_upstream(sdk: Sdk, scripted: ScriptedUpstream) -> None:
    scripted.default = json_answer(golden.COMPLETION)
    extra = {"foo": {"a": [1]}, "seed": 2**60, "temperature": 1e-7, "text": "\u2028😀"}
    await sdk.get(lambda client: client.chat.completions.create(model="fast", messages=MESSAGES, extra_body=extra))
    assert scripted.requests[0].json() == {"messages": MESSAGES, "model": "gpt-4o", **extra}
