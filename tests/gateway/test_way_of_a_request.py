"""The main job: an OpenAI client that knows a base URL and a key gets its completion from the configured provider."""

import json

import openai
import pytest
from asgiref.sync import sync_to_async
from openai.types.chat import ChatCompletionMessageParam

from tests.canaries import PROMPT
from tests.gateway import golden
from tests.gateway.house import TOKEN, Door, client_key
from tests.scripted import RESET, ScriptedUpstream, Step, json_answer, sse

ASK: list[ChatCompletionMessageParam] = [{"role": "user", "content": PROMPT}]


async def test_case_01_a_completion_is_the_upstreams_own_with_a_request_id(
    door: Door, scripted: ScriptedUpstream
) -> None:
    scripted.default = json_answer(golden.COMPLETION)
    async with door.client() as client:
        answer = await client.chat.completions.create(model="fast", messages=ASK)
    assert answer.to_dict() == golden.COMPLETION
    assert answer._request_id is not None
    [row] = await door.rows(1)
    assert answer._request_id == row.id
    assert (row.outcome, row.status, row.provider, row.upstream_model, row.alias, row.model) == (
        "ok", 200, "lab", "gpt-4o", "fast", "fast",
    )  # fmt: skip
    assert (row.tokens_in, row.tokens_out, row.tokens_cached, row.tokens_reasoning) == (19, 10, 4, 2)
    assert (row.usage_source, row.sent, row.stream, row.endpoint) == ("provider", True, False, "chat.completions")
    assert row.key_name == "app"
    assert row.attempts == [
        {
            "provider": "lab",
            "model": "gpt-4o",
            "outcome": "ok",
            "status": 200,
            "sent": True,
            "ms": row.attempts[0]["ms"],
        }
    ]
    assert row.bytes_out == len(json.dumps(golden.COMPLETION, separators=(",", ":")))


async def test_case_02_unknown_fields_and_numbers_reach_the_upstream_as_they_are(
    door: Door, scripted: ScriptedUpstream
) -> None:
    scripted.default = json_answer(golden.COMPLETION)
    body = (
        '{"foo":{"a":[1]},"temperature":1e-7,"seed":1152921504606846976,"model":"fast","x":"\\u2028",'
        '"messages":[{"role":"user","content":"\U0001f600"}],"top_p":0.10000000000000001}'
    ).encode()
    async with door.http() as http:
        answer = await http.post("/chat/completions", content=body)
    assert answer.status_code == 200
    assert scripted.requests[0].body == body.replace(b'"fast"', b'"gpt-4o"')


async def test_case_03_the_alias_becomes_the_upstreams_model_and_a_header_names_the_provider(
    door: Door, scripted: ScriptedUpstream
) -> None:
    scripted.default = json_answer(golden.COMPLETION)
    async with door.http() as http:
        answer = await http.post("/chat/completions", json={"model": "fast", "messages": ASK})
    request = scripted.requests[0]
    assert request.json() == {"model": "gpt-4o", "messages": ASK}
    assert (request.method, request.target) == ("POST", "/v1/chat/completions")
    assert answer.headers["x-gateway-provider"] == "lab"


async def test_the_outgoing_head_is_built_and_never_copied(door: Door, scripted: ScriptedUpstream) -> None:
    scripted.default = json_answer(golden.COMPLETION)
    hostile = {
        "cookie": "session=1", "x-api-key": door.key, "x-goog-api-key": "g", "openai-organization": "org",
        "x-forwarded-for": "1.2.3.4", "traceparent": "00-1", "x-stainless-lang": "js", "host": "evil.example",
    }  # fmt: skip
    async with door.http() as http:
        await http.post("/chat/completions", json={"model": "fast", "messages": ASK}, headers=hostile)
    headers = {name.lower(): value for name, value in scripted.requests[0].headers}
    assert set(headers) == {"host", "content-type", "accept-encoding", "user-agent", "authorization", "content-length"}
    assert headers["authorization"] == f"Bearer {TOKEN}"
    assert headers["host"] == scripted.url.removeprefix("http://")
    assert headers["accept-encoding"] == "identity"


async def test_a_pattern_passes_the_rest_of_the_name_on(door: Door, scripted: ScriptedUpstream) -> None:
    scripted.default = json_answer(golden.COMPLETION)
    async with door.client() as client:
        await client.chat.completions.create(model="lab/meta/llama:3", messages=ASK)
    assert scripted.requests[0].json()["model"] == "meta/llama:3"


async def test_completions_and_embeddings_take_the_same_way(door: Door, scripted: ScriptedUpstream) -> None:
    scripted.enqueue(json_answer(golden.TEXT_COMPLETION), json_answer(golden.EMBEDDINGS))
    async with door.client() as client:
        text = await client.completions.create(model="fast", prompt="Say this is a test")
        vectors = await client.embeddings.create(model="fast", input="hello", encoding_format="float")
    assert text.to_dict() == golden.TEXT_COMPLETION
    assert vectors.to_dict() == golden.EMBEDDINGS
    assert [request.target for request in scripted.requests] == ["/v1/completions", "/v1/embeddings"]
    rows = await door.rows(2)
    assert [(row.endpoint, row.tokens_in, row.tokens_out) for row in rows] == [
        ("completions", 5, 7),
        ("embeddings", 5, 0),
    ]


async def test_case_17_usage_that_was_not_asked_for_is_read_and_hidden(door: Door, scripted: ScriptedUpstream) -> None:
    scripted.default = sse(*golden.chunks("Hel", "lo"))
    async with door.http() as http:
        answer = await http.post("/chat/completions", json={"model": "fast", "messages": ASK, "stream": True})
    assert b"usage" not in answer.content
    assert answer.content.endswith(b"data: [DONE]\n\n")
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert scripted.requests[0].json()["stream_options"] == {"include_usage": True}
    [row] = await door.rows(1)
    assert (row.tokens_in, row.tokens_out, row.usage_source) == (19, 3, "provider")
    assert (row.stream, row.outcome, row.bytes_out) == (True, "ok", len(answer.content))


async def test_a_stream_reaches_the_sdk_chunk_by_chunk_with_the_usage_it_asked_for(
    door: Door, scripted: ScriptedUpstream
) -> None:
    scripted.default = sse(*golden.chunks("Hel", "lo"))
    async with door.client() as client:
        stream = await client.chat.completions.create(
            model="fast",
            messages=ASK,
            stream=True,
            stream_options={"include_usage": True},
        )
        seen = [part async for part in stream]
    assert "".join(part.choices[0].delta.content or "" for part in seen if part.choices) == "Hello"
    assert [part.usage for part in seen[:-1]] == [None] * 4
    assert seen[-1].usage is not None
    assert seen[-1].usage.total_tokens == 22


@pytest.mark.parametrize(
    "path", ["/chat/completions", "/v1/chat/completions/", "//v1//chat/completions", "/v1/v1/chat/completions"]
)
async def test_every_spelling_of_the_base_url_is_served(door: Door, scripted: ScriptedUpstream, path: str) -> None:
    scripted.default = json_answer(golden.COMPLETION)
    async with door.http() as http:
        base = door.url.removesuffix("/v1")
        answer = await http.post(base + path, json={"model": "fast", "messages": ASK})
    assert answer.status_code == 200, answer.text


async def test_case_09_a_body_without_a_content_type_is_json(door: Door, scripted: ScriptedUpstream) -> None:
    scripted.default = json_answer(golden.COMPLETION)
    async with door.http() as http:
        form = {"content-type": "application/x-www-form-urlencoded"}
        answers = [
            await http.post("/chat/completions", content=b'{"model":"fast","messages":[]}', headers=headers)
            for headers in ({}, form)
        ]
    assert [answer.status_code for answer in answers] == [200, 200]


async def test_case_10_the_key_may_come_in_any_of_the_usual_headers(door: Door, scripted: ScriptedUpstream) -> None:
    scripted.default = json_answer(golden.COMPLETION)
    forms = [
        {"authorization": f"Bearer {door.key}"},
        {"authorization": f"bearer {door.key}"},
        {"authorization": f"BEARER  {door.key}"},
        {"api-key": door.key},
        {"x-api-key": door.key},
    ]
    async with door.http() as http:
        del http.headers["authorization"]
        answers = [await http.post("/chat/completions", json={"model": "fast"}, headers=form) for form in forms]
    assert [answer.status_code for answer in answers] == [200] * 5


async def test_case_07_the_models_are_those_that_the_key_may_use(door: Door, scripted: ScriptedUpstream) -> None:
    scripted.default = json_answer({"object": "list", "data": [{"id": "gpt-4o", "object": "model"}, {"id": "o/3"}]})
    narrow = (await sync_to_async(client_key)("narrow", aliases=["lab/gpt*"]))[1]
    async with door.http() as http:
        answer = (await http.get("/models")).json()
        few = (await http.get("/models", headers={"authorization": f"Bearer {narrow}"})).json()
    assert [model["id"] for model in answer["data"]] == ["fast", "lab/gpt-4o", "lab/o/3"]
    assert [model["id"] for model in few["data"]] == ["lab/gpt-4o"]
    # Asked once; the second client was served from memory.
    assert [(request.method, request.target) for request in scripted.requests] == [("GET", "/v1/models")]
    assert scripted.requests[0].header("authorization") == f"Bearer {TOKEN}"
    model = answer["data"][0]
    assert answer["object"] == "list"
    assert (model["id"], model["object"], model["owned_by"], type(model["created"])) == (
        "fast",
        "model",
        "gateway",
        int,
    )


@pytest.mark.parametrize(
    ("script", "listed"),
    [
        (json_answer([{"id": "m"}]), ["fast", "lab/m"]),
        (json_answer({}, status=500), ["fast"]),
        (json_answer(7), ["fast"]),
        ([RESET], ["fast"]),
    ],
)
async def test_a_provider_that_lists_nothing_takes_no_alias_away(
    door: Door, scripted: ScriptedUpstream, script: list[Step], listed: list[str]
) -> None:
    scripted.default = script
    async with door.http() as http:
        for _ in range(2):
            assert [model["id"] for model in (await http.get("/models")).json()["data"]] == listed
    assert len(scripted.requests) == 1


async def test_case_08_a_model_with_slash_and_colon_is_found_and_an_unknown_one_is_not(door: Door) -> None:
    async with door.client() as client:
        assert (await client.models.retrieve("lab/Llama-3:free")).id == "lab/Llama-3:free"
        with pytest.raises(openai.NotFoundError) as caught:
            await client.models.retrieve("meta-llama/Llama-3:free")
    assert caught.value.code == "model_not_found"
