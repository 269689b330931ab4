"""The openai package for Node.js, in the two major versions that people have, unchanged but for base URL and key."""

import base64
import json
import struct
from typing import Any

import pytest
import pytest_asyncio

from tests.clients import node
from tests.clients.served import Gateway
from tests.gateway import golden
from tests.scripted import RESET, SSE_HEADERS, Chunk, Received, ScriptedUpstream, Step, event, head, json_answer, sse

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.node]

VERSIONS = {"node6": "node", "node7": "node_modules/node/bin/node"}
VECTOR = [0.25, -0.5, 1.0]
PACKED = base64.b64encode(struct.pack("<3f", *VECTOR)).decode()
CHUNKED = {**SSE_HEADERS, "transfer-encoding": "chunked"}
BEGUN: list[Step] = [head(200, CHUNKED), *(Chunk(event(part)) for part in golden.chunks("Hel", "lo", usage=False)[:3])]
BOOM = {"message": "boom", "type": "server_error", "param": None, "code": "inner"}
LIMITED = {"message": "slow down", "type": "requests", "param": None, "code": "rate_limit_exceeded"}
QUOTA = {"message": "no credit", "type": "insufficient_quota", "param": None, "code": "insufficient_quota"}
TOO_LONG = {
    "message": "Too long.", "type": "invalid_request_error", "param": "messages", "code": "context_length_exceeded",
}  # fmt: skip
CALL = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": ""}}
PIECES = [
    {**golden.TEXT_COMPLETION, "choices": [{"text": text, "index": 0, "logprobs": None, "finish_reason": end}]}
    for text, end in (("This is", None), (" a test", "length"))
]

# One script for each model that the conversation asks for by name.
MODELS: dict[str, list[Step]] = {
    "no-role": sse(golden.chunk({"content": "Hel"}), golden.chunk({"content": "lo"}),
                   golden.chunk({}, "stop", usage=golden.USAGE)),
    "tools": sse(golden.chunk({"role": "assistant", "content": None}), golden.chunk({"tool_calls": [CALL]}),
                 golden.chunk({"tool_calls": [{"index": 0, "function": {"arguments": "{}"}}]}),
                 golden.chunk({}, "tool_calls")),
    "limited": json_answer({"error": LIMITED}, status=429, headers={"retry-after-ms": "20"}),
    "quota": json_answer({"error": QUOTA}, status=429),
    "too-long": json_answer({"error": TOO_LONG}, status=400),
    "boom": [*BEGUN, Chunk(event({"error": BOOM})), Chunk()],
    "cut": [*BEGUN, RESET],
    "plain": json_answer(golden.EMBEDDINGS),
}  # fmt: skip


def provider(request: Received) -> list[Step]:
    """Answers by path and model, as OpenAI would."""
    if request.method == "GET":
        return json_answer({"object": "list", "data": [{"id": "gpt-4o", "object": "model"}]})
    ask = request.json()
    if ask["model"] in MODELS:
        return MODELS[ask["model"]]
    if request.target == "/v1/embeddings":
        packed = ask.get("encoding_format") == "base64"
        data = [{"object": "embedding", "embedding": PACKED if packed else VECTOR, "index": 0}]
        return json_answer({**golden.EMBEDDINGS, "data": data})
    if request.target == "/v1/completions":
        return sse(*PIECES) if ask.get("stream") else json_answer(golden.TEXT_COMPLETION)
    return sse(*golden.chunks("Hel", "lo")) if ask.get("stream") else json_answer(golden.COMPLETION)


@pytest_asyncio.fixture(loop_scope="session", scope="module", params=sorted(VERSIONS))
async def said(request: pytest.FixtureRequest, servers: Any, lab: ScriptedUpstream) -> dict[str, Any]:
    """What the conversation printed, and `asked`: the models in the order in which the provider was asked for them."""
    gateway: Gateway = await servers.get("uvicorn")
    cache = request.config.cache
    assert cache is not None
    folder = node.installed(cache, request.param)
    binary = VERSIONS[request.param]
    lab.requests.clear()
    lab.default = provider
    text = await node.run(
        folder,
        "conversation.mjs",
        binary if binary == "node" else str(folder / binary),
        GATEWAY_URL=gateway.url,
        GATEWAY_KEY=gateway.key,
    )
    told: dict[str, Any] = json.loads(text)
    told["asked"] = [received.json()["model"] for received in lab.requests if received.body]
    told["name"] = request.param
    return told


async def test_it_is_the_version_that_it_should_be(said: dict[str, Any]) -> None:
    assert said["version"].split(".")[0] == said["name"].removeprefix("node")
    assert said["name"] == "node6" or said["node"].startswith("24.")


async def test_case_01_a_completion_is_what_the_upstream_said(said: dict[str, Any]) -> None:
    assert said["chat"] == golden.COMPLETION
    assert said["requestId"].startswith("req_")


async def test_streams_bring_the_upstreams_chunks_and_usage_for_who_asks(said: dict[str, Any]) -> None:
    assert said["streamed"] == golden.chunks("Hel", "lo", usage=False)
    assert said["withUsage"] == golden.chunks("Hel", "lo")


async def test_case_15_the_stream_helper_resolves_without_roles_from_the_upstream(said: dict[str, Any]) -> None:
    [choice] = said["gathered"]["choices"]
    assert (choice["message"]["role"], choice["message"]["content"], choice["finish_reason"]) == (
        "assistant", "Hello", "stop",
    )  # fmt: skip
    assert said["gathered"]["usage"] == golden.USAGE


async def test_tool_calls_in_a_stream_are_put_together(said: dict[str, Any]) -> None:
    [call] = said["tools"]["message"]["tool_calls"]
    assert (call["id"], call["function"]["name"], call["function"]["arguments"]) == ("call_1", "get_weather", "{}")
    assert said["tools"]["finish_reason"] == "tool_calls"


async def test_text_completions_whole_and_streamed(said: dict[str, Any]) -> None:
    assert said["completion"] == golden.TEXT_COMPLETION
    assert "".join(part["choices"][0]["text"] for part in said["completionStreamed"]) == "This is a test"


async def test_case_40_vectors_are_the_same_whether_base64_is_honoured_or_ignored(said: dict[str, Any]) -> None:
    assert said["vectors"] == said["floats"] == said["plainVectors"] == VECTOR


async def test_case_07_and_08_models_are_listed_and_found_by_name(said: dict[str, Any]) -> None:
    assert [name for name in said["models"] if "/" not in name] == ["fast", "gone", "slow", "spared"]
    assert (said["model"]["id"], said["model"]["object"]) == ("lab/Llama-3:free", "model")


def short(error: dict[str, Any]) -> tuple[Any, ...]:
    assert error["hasRequestId"]
    return error["class"], error["status"], error["code"], error["param"]


async def test_case_26_and_27_refusals_of_the_gateway_have_their_classes(said: dict[str, Any]) -> None:
    assert short(said["unauthorized"]) == ("AuthenticationError", 401, "invalid_api_key", None)
    assert short(said["unknown"]) == ("NotFoundError", 404, "model_not_found", "model")


async def test_case_29_30_and_33_refusals_of_the_provider_are_tried_again_where_it_helps(said: dict[str, Any]) -> None:
    assert short(said["limited"]) == ("RateLimitError", 429, "rate_limit_exceeded", None)
    assert short(said["quota"]) == ("RateLimitError", 429, "insufficient_quota", None)
    assert short(said["refused"]) == ("BadRequestError", 400, "context_length_exceeded", "messages")
    asked = said["asked"]
    assert [asked.count(model) for model in ("limited", "quota", "too-long")] == [3, 1, 1]


async def test_case_18_an_error_within_a_stream_is_thrown_with_its_own_words(said: dict[str, Any]) -> None:
    error = said["midway"]
    assert (error["class"], error["message"], error["code"], error["type"]) == (
        "APIError", "boom", "inner", "server_error",
    )  # fmt: skip
    assert error["parts"] == ["", "Hel", "lo"]


async def test_case_19_a_stream_that_is_cut_says_so(said: dict[str, Any]) -> None:
    assert (said["cut"]["class"], said["cut"]["code"]) == ("APIError", "stream_interrupted")
    assert said["cut"]["parts"] == ["", "Hel", "lo"]
