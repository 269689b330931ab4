"""Calls whose address, key or fields are another provider's own, seen from both ends."""

import base64
import struct
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from asgiref.sync import sync_to_async

from providers.models import ClientKey
from providers.presets import presets
from tests.gateway import golden, house
from tests.gateway.house import TOKEN, Door
from tests.scripted import ScriptedUpstream, json_answer

VECTOR = (0.25, -0.5, 1.0)


@pytest.fixture
async def door(transactional_db: None, tmp_path: Path, scripted: ScriptedUpstream) -> AsyncIterator[Door]:
    def configure() -> str:
        predibase = house.provider(
            "predibase",
            f"{scripted.url}/t1/deployments/v2/llms/mistral-7b/v1",
            dialect="predibase",
            quirks=dict(presets()["predibase"].quirks),
        )
        azure = house.provider("azure", f"{scripted.url}/openai/v1", dialect="azure")
        refuses = house.provider("refuses", f"{scripted.url}/v1", quirks={"drop": ["encoding_format"]})
        plain = house.provider("plain", f"{scripted.url}/plain/v1")
        house.alias("support", (predibase, "repo/3"))
        house.alias("gpt", (azure, "my-deployment"))
        house.alias("embed", (refuses, "e"))
        house.alias("either", (predibase, ""), (plain, "m"))
        return house.client_key()[1]

    async with house.open_house(configure, tmp_path) as opened:
        yield opened


async def test_case_05_a_predibase_adapter_goes_to_the_deployments_address(
    door: Door, scripted: ScriptedUpstream
) -> None:
    scripted.default = json_answer(golden.COMPLETION)
    async with door.http() as http:
        answer = await http.post("/chat/completions", json={"model": "support", "messages": [], "user": "u"})
    assert answer.status_code == 200
    [sent] = scripted.requests
    assert sent.target == "/t1/deployments/v2/llms/mistral-7b/v1/chat/completions"
    assert sent.body == b'{"model":"repo/3","messages":[]}'
    assert sent.header("authorization") == f"Bearer {TOKEN}"
    assert door.key not in str(sent)


async def test_what_a_provider_has_no_endpoint_for_is_not_asked_of_it(door: Door, scripted: ScriptedUpstream) -> None:
    scripted.default = json_answer({"id": "resp_1", "object": "response", "status": "completed", "output": []})
    async with door.http() as http:
        alone = await http.post("/responses", json={"model": "support", "input": "Hi"})
        other = await http.post("/responses", json={"model": "either", "input": "Hi"})
    assert (alone.status_code, alone.json()["error"]["code"]) == (400, "unsupported_endpoint")
    assert other.status_code == 200
    assert [sent.target for sent in scripted.requests] == ["/plain/v1/responses"]


async def test_case_06_the_v1_form_of_azure_has_no_date_and_its_key_in_a_header_of_its_own(
    door: Door, scripted: ScriptedUpstream
) -> None:
    scripted.default = json_answer(golden.COMPLETION)
    async with door.http() as http:
        await http.post("/chat/completions", json={"model": "gpt", "messages": []})
    [sent] = scripted.requests
    assert sent.target == "/openai/v1/chat/completions"
    assert sent.json()["model"] == "my-deployment"
    assert (sent.header("api-key"), sent.header("authorization")) == (TOKEN, None)


async def test_case_10_a_key_from_elsewhere_may_have_spaces_inside(door: Door, scripted: ScriptedUpstream) -> None:
    scripted.default = json_answer(golden.COMPLETION)
    await sync_to_async(ClientKey.objects.adopt)("My API Key", name="old", aliases=["gpt"])
    await door.engine.sql(door.engine.reader.load)
    async with door.http() as http:
        for header in ({"authorization": "Bearer My API Key"}, {"api-key": "My API Key"}):
            answer = await http.post("/chat/completions", json={"model": "gpt", "messages": []}, headers=header)
            assert answer.status_code == 200
    assert len(scripted.requests) == 2


@pytest.mark.parametrize("packed", [False, True], ids=["numbers", "base64"])
async def test_case_40_a_provider_that_refuses_the_field_is_not_given_it_and_the_vectors_are_the_same(
    door: Door, scripted: ScriptedUpstream, packed: bool
) -> None:
    text = base64.b64encode(struct.pack("<3f", *VECTOR)).decode()
    data = [{"object": "embedding", "index": 0, "embedding": text if packed else list(VECTOR)}]
    scripted.default = json_answer({"object": "list", "data": data, "model": "e"})
    async with door.client() as client:
        default = await client.embeddings.create(model="embed", input="Hi")
        floats = await client.embeddings.create(model="embed", input="Hi", encoding_format="float")
    async with door.http() as http:
        bare = await http.post("/embeddings", json={"model": "embed", "input": "Hi"})
    assert default.data[0].embedding == floats.data[0].embedding == bare.json()["data"][0]["embedding"] == list(VECTOR)
    assert [sent.json() for sent in scripted.requests] == [{"model": "e", "input": "Hi"}] * 3


async def test_what_one_provider_has_not_the_next_route_may_have(door: Door, scripted: ScriptedUpstream) -> None:
    scripted.default = json_answer(golden.COMPLETION)
    async with door.http() as http:
        answer = await http.post("/chat/completions", json={"model": "either", "messages": [], "n": 2})
    assert answer.status_code == 200
    assert [sent.target for sent in scripted.requests] == ["/plain/v1/chat/completions"]
    [row] = await door.rows(1)
    assert [(attempt["outcome"], attempt["sent"]) for attempt in row.attempts] == [
        ("unsupported_parameter", False),
        ("ok", True),
    ]
