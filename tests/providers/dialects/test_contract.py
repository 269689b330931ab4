"""What holds of every preset, whatever is behind it: read from what its clients saw (golden/)."""

import json
import struct
from base64 import b64decode
from typing import Any

import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from providers import dialects, quirks
from providers.quirks import FINISH_REASONS
from tests.gateway.house import TOKEN
from tests.providers.dialects import golden_sets
from tests.providers.dialects.golden_sets import Case, Golden

CASES = [(golden, case) for golden in map(golden_sets.load, golden_sets.names()) for case in golden.cases]
IDS = [f"{golden.preset.name}-{case.name}" for golden, case in CASES]
GOLDEN = [golden_sets.load(name) for name in golden_sets.names()]


def answered(value: str) -> Any:
    return json.loads(value.replace('"created":NOW', '"created":1'))


def is_stream(case: Case) -> bool:
    return str(case.view["headers"]["content-type"]).startswith("text/event-stream")


def chunks(case: Case) -> list[Any]:
    blocks = case.view["body"].split("\n\n")
    assert blocks.pop() == ""
    assert all(block.startswith("data: ") for block in blocks)
    return [answered(block.removeprefix("data: ")) for block in blocks if block != "data: [DONE]"]


@pytest.mark.parametrize("golden", GOLDEN, ids=lambda golden: golden.preset.name)
def test_a_set_has_the_cases_that_every_provider_has_and_says_where_they_are_from(golden: Golden) -> None:
    names = {case.name for case in golden.cases}
    assert {"plain", "stream", "tools", "error"} <= names
    assert ("sleeping" in names) == bool(quirks.parse(golden.preset.quirks).asleep)
    assert all(source.startswith("https://") for source in golden.source)


@pytest.mark.parametrize(("golden", "case"), CASES, ids=IDS)
def test_the_request_upstream_is_signed_by_the_gateway_and_frames_itself(golden: Golden, case: Case) -> None:
    for exchange in case.exchanges:
        headers = exchange.request["headers"]
        assert TOKEN in (headers.get("api-key"), headers.get("authorization", "").removeprefix("Bearer "))
        assert headers["accept-encoding"] == "identity"
        assert headers["user-agent"] == "llm-gateway"
        assert set(headers) <= {
            *("api-key", "authorization", "accept", "accept-encoding", "content-type", "prefer", "user-agent"),
            *quirks.parse(golden.preset.quirks).headers,
        }
        if exchange.request["body"]:
            assert headers["content-type"] == "application/json"
            body = json.loads(exchange.request["body"])
            declared = quirks.parse(golden.preset.quirks)
            assert not declared.drop & body.keys()
            assert not declared.rename.keys() & body.keys()


@pytest.mark.parametrize(("golden", "case"), CASES, ids=IDS)
def test_a_whole_answer_is_what_openais_library_takes(golden: Golden, case: Case) -> None:
    if is_stream(case):
        assert case.view["status"] == 200
        return
    body = answered(case.view["body"])
    if case.view["status"] != 200:
        error = body.pop("error")
        assert body == {}
        assert error.keys() == {"message", "type", "param", "code"}
        assert isinstance(error["message"], str)
        assert error["message"]
        assert all(error[name] is None or isinstance(error[name], str) for name in ("type", "param", "code"))
    elif case.path.endswith("/embeddings"):
        assert [struct.unpack("<3f", b64decode(item["embedding"])) for item in body["data"]] == [(0.25, -0.5, 1.0)]
    else:
        ChatCompletion.model_validate(body)
        assert body["object"] == "chat.completion"
        assert all(choice["finish_reason"] in FINISH_REASONS for choice in body["choices"])


@pytest.mark.parametrize(("golden", "case"), CASES, ids=IDS)
def test_a_stream_is_what_openais_library_takes(golden: Golden, case: Case) -> None:
    if not is_stream(case):
        return
    told = chunks(case)
    failed = "error" in told[-1]
    assert case.view["body"].count("data: [DONE]\n\n") == (not failed)
    assert case.view["body"].endswith("data: [DONE]\n\n") != failed
    told = told[:-1] if failed else told
    for chunk in told:
        ChatCompletionChunk.model_validate(chunk, strict=True)
        assert chunk["object"] == "chat.completion.chunk"
    assert len({(chunk["id"], chunk["model"], chunk["created"]) for chunk in told}) == 1
    choices = [choice for chunk in told for choice in chunk["choices"]]
    assert choices[0]["delta"]["role"] == "assistant"
    endings = [choice["finish_reason"] for choice in choices if choice["finish_reason"] is not None]
    assert len(endings) == (not failed)
    assert set(endings) <= set(FINISH_REASONS)
    asked = json.loads(case.ask).get("stream_options", {}).get("include_usage", False)
    used = [chunk for chunk in told if chunk.get("usage") is not None]
    assert len(used) == (asked and not failed)
    assert all(chunk["choices"] == [] for chunk in used)


@pytest.mark.parametrize(("golden", "case"), CASES, ids=IDS)
def test_tool_calls_of_a_stream_can_be_put_together(golden: Golden, case: Case) -> None:
    if not is_stream(case) or case.name != "tools":
        return
    calls: dict[int, dict[str, str]] = {}
    for chunk in chunks(case):
        for piece in (piece for choice in chunk["choices"] for piece in choice["delta"].get("tool_calls") or ()):
            begun = calls.get(piece["index"])
            if begun is None:
                assert piece["type"] == "function"
                calls[piece["index"]] = {"id": piece["id"], **piece["function"]}
            else:
                assert piece.keys() == {"index", "function"}
                assert piece["function"].keys() == {"arguments"}
                begun["arguments"] += piece["function"]["arguments"]
    assert sorted(calls) == list(range(len(calls)))
    assert len({call["id"] for call in calls.values()}) == len(calls)
    for call in calls.values():
        assert call["name"] == "get_weather"
        assert json.loads(call["arguments"])["city"] in ("Paris", "Rome")


@pytest.mark.parametrize("name", sorted(dialects.registry()))
def test_every_dialect_is_some_presets(name: str) -> None:
    dialect = dialects.get(name)
    assert dialect.label
    assert name in {golden.preset.dialect for golden in GOLDEN}
    assert dialect.choices.keys() <= dialect.options.keys()
