"""What the gateway does with wrong keys and bodies: a clear refusal in OpenAI's shape, and nothing sent on."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import openai
import pytest
from asgiref.sync import sync_to_async
from django.db import connection
from django.utils import timezone

from providers import keyring, keys
from providers.models import ClientKey
from tests.gateway import golden
from tests.gateway.house import Door, client_key
from tests.scripted import ScriptedUpstream, json_answer

INVALID = "invalid_request_error"


async def post(door: Door, content: bytes, path: str = "/chat/completions") -> httpx.Response:
    async with door.http() as http:
        return await http.post(path, content=content)


async def test_case_26_a_wrong_key_is_a_401_in_one_attempt(door: Door, scripted: ScriptedUpstream) -> None:
    wrong = keys.mint().token
    async with door.client(api_key=wrong) as client:
        with pytest.raises(openai.AuthenticationError) as caught:
            await client.chat.completions.create(model="fast", messages=[])
    error = caught.value
    assert error.response.json() == {
        "error": {
            "message": f"Incorrect API key provided: sk-***{wrong[-4:]}. Ask whoever runs this gateway for a key.",
            "type": INVALID,
            "param": None,
            "code": "invalid_api_key",
        }
    }
    assert error.response.headers["x-should-retry"] == "false"
    assert error.request_id is not None
    assert scripted.requests == []


async def test_no_key_at_all_says_how_to_send_one(door: Door) -> None:
    async with door.http() as http:
        del http.headers["authorization"]
        answer = await http.post("/chat/completions", json={"model": "fast"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")
    assert "Authorization: Bearer" in answer.json()["error"]["message"]


async def test_unknown_wrong_disabled_and_expired_keys_read_the_same(door: Door) -> None:
    disabled = (await sync_to_async(client_key)("off"))[1]
    await sync_to_async(ClientKey.objects.filter(name="off").update)(enabled=False)
    expired = (await sync_to_async(client_key)("old", expires_at=timezone.now()))[1]
    unknown = keys.mint().token
    body_of = unknown[:-6][:-1] + ("A" if unknown[-7] != "A" else "B")
    malformed = body_of + unknown[-6:]
    texts = set()
    async with door.http() as http:
        for token in (disabled, expired, unknown, malformed):
            answer = await http.post("/chat/completions", headers={"authorization": f"Bearer {token}"})
            assert answer.status_code == 401
            texts.add(answer.text.replace(token[-4:], "LAST"))
    assert len(texts) == 1


async def test_a_malformed_key_of_our_own_form_costs_no_look_up(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    looked_up: list[str] = []
    monkeypatch.setattr(keyring, "load", looked_up.append)
    async with door.http() as http:
        for token in ("sk-gw-short", door.key[:-1] + "!", "sk-gw-" + "a" * 60, "sk-other-key-of-some-provider"):
            answer = await http.post("/chat/completions", headers={"authorization": f"Bearer {token}"})
            assert answer.status_code == 401
    assert looked_up == []


async def test_an_unknown_key_is_looked_up_once(door: Door) -> None:
    token = keys.mint().token

    asked: list[str] = []

    def note(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        asked.append(sql)
        return execute(sql, params, many, context)

    wrapper = await door.engine.sql(lambda: connection.execute_wrapper(note))
    await door.engine.sql(wrapper.__enter__)
    async with door.http() as http:
        for _ in range(5):
            await http.post("/chat/completions", headers={"authorization": f"Bearer {token}"})
    await door.engine.sql(wrapper.__exit__, None, None, None)
    assert len([sql for sql in asked if "clientkey" in sql]) == 1


@pytest.mark.parametrize(
    ("body", "code", "param", "says"),
    [
        (b"", None, None, "no body"),
        (b"[]", None, None, "JSON object"),
        (b'"text"', None, None, "JSON object"),
        (b'{"model":', None, None, "could not parse"),
        (b'{"model":"fast","temperature":NaN}', None, None, "could not parse"),
        (b'{"model":"fast","x":"\xff"}', None, None, "UTF-8"),
        (b'{"messages":[]}', "missing_required_parameter", "model", "model"),
        (b'{"model":null}', "invalid_type", "model", "`model`"),
        (b'{"model":7}', "invalid_type", "model", "`model`"),
        (b'{"model":"fast","model":"lab/x"}', "duplicate_parameter", "model", "twice"),
        (b'{"model":"fast","stream":"yes"}', "invalid_type", "stream", "`stream`"),
        (b'{"model":"fast","n":0}', "invalid_value", "n", "`n`"),
        (b'{"model":"fast","stop":"\\ud800"}', None, "stop", "surrogate"),
        (b'{"model":"fast","x":' + b"[" * 64 + b"]" * 64 + b"}", None, None, "64 levels"),
        (b'{"model":"fast","x":' + b"[" * 100_000 + b"]" * 100_000 + b"}", None, None, "64 levels"),
        (b"[" * 1_000_000, None, None, ""),
    ],
)
async def test_case_28_a_bad_body_is_a_400_that_names_the_field(
    door: Door, scripted: ScriptedUpstream, body: bytes, code: str | None, param: str | None, says: str
) -> None:
    answer = await post(door, body)
    error = answer.json()["error"]
    assert (answer.status_code, error["type"], error["code"], error["param"]) == (400, INVALID, code, param)
    assert says in error["message"]
    assert scripted.requests == []


async def test_s36_a_number_of_any_length_is_no_fault_of_the_gateways(door: Door, scripted: ScriptedUpstream) -> None:
    scripted.default = json_answer(golden.COMPLETION)
    long = b"1" * 5_000
    passed = b'{"model":"fast","messages":[],"metadata":{"model":"a"},"seed":' + long + b"}"
    answer = await post(door, passed)
    assert (answer.status_code, scripted.requests[0].body.count(long)) == (200, 1)
    assert (await post(door, b'{"model":"fast","prompt":[' + long + b"]}", "/completions")).status_code == 200
    for content, path, param in [
        (b'{"model":"fast","messages":[{"file_id":' + long + b"}]}", "/chat/completions", "messages"),
        (b'{"model":"fast","input":"a","previous_response_id":1e999}', "/responses", "previous_response_id"),
        (b'{"model":"fast","input":[{"file_id":' + long + b"}]}", "/responses", "input"),
    ]:
        refused = await post(door, content, path)
        error = refused.json()["error"]
        assert (refused.status_code, error["code"], error["param"]) == (400, "invalid_value", param)
    assert len(scripted.requests) == 2


async def test_64_levels_and_a_name_that_is_repeated_deeper_down_are_no_reason_to_refuse(
    door: Door, scripted: ScriptedUpstream
) -> None:
    deep = b'{"model":"fast","metadata":{"model":"a","stream":"b"},"x":' + b"[" * 63 + b"]" * 63 + b"}"
    wide = b'{"model":"fast","x":[' + b",".join([b'{"a":["[[[",{"b":"\\"}"}]}'] * 500) + b"]}"
    answers = [await post(door, deep), await post(door, wide)]
    assert [answer.status_code for answer in answers] != [400, 400]
    assert [request.body for request in scripted.requests] == [
        deep.replace(b'"fast"', b'"gpt-4o"'), wide.replace(b'"fast"', b'"gpt-4o"')
    ]  # fmt: skip


async def test_a_body_over_the_cap_is_a_413_whether_it_says_its_length_or_not(door: Door) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(11):
            yield b" " * 1_048_576

    said = await post(door, b" " * (10 * 1024 * 1024 + 1))
    async with door.http() as http:
        unsaid = await http.post("/chat/completions", content=pieces())
    for answer in (said, unsaid):
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "request_too_large")


async def test_a_length_over_the_cap_is_refused_before_a_byte_of_the_body(door: Door) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", int(door.url.split(":")[2].split("/")[0]))
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {door.key}\r\n"
    writer.write(head.encode() + b"content-length: 10485761\r\n\r\n")
    assert (await asyncio.wait_for(reader.readline(), 2)).startswith(b"HTTP/1.1 413 ")
    writer.close()


async def test_case_27_unknown_models_paths_and_methods_are_json(door: Door) -> None:
    async with door.http() as http:
        model = await http.post("/chat/completions", json={"model": "nobody"})
        path = await http.post(door.url.removesuffix("/v1") + "/foo/bar", json={})
        method = await http.get("/embeddings")
    assert (model.status_code, model.json()["error"]["code"]) == (404, "model_not_found")
    assert model.json()["error"]["param"] == "model"
    assert (path.status_code, path.json()["error"]["code"]) == (404, "unknown_url")
    assert path.json()["error"]["message"] == "Invalid URL (POST /v1/foo/bar)"
    assert (method.status_code, method.json()["error"]["code"]) == (405, "method_not_supported")
    assert method.headers["allow"] == "POST"


async def test_a_key_sees_and_uses_only_the_aliases_that_it_was_given(door: Door) -> None:
    token = (await sync_to_async(client_key)("narrow", aliases=["other", "team/*"]))[1]
    async with door.http() as http:
        http.headers["authorization"] = f"Bearer {token}"
        models = await http.get("/models")
        answer = await http.post("/chat/completions", json={"model": "fast"})
    assert models.json()["data"] == []
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")


async def test_a_refused_request_leaves_no_row(door: Door) -> None:
    await post(door, b"{}")
    await post(door, b'{"model":"nobody"}')
    await asyncio.sleep(0.6)
    assert await door.rows(1, within=0.1) == []
