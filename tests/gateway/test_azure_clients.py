"""Clients that were written for Azure: https://learn.microsoft.com/azure/ai-services/openai/reference."""

import openai
import pytest

from tests.gateway import golden
from tests.gateway.house import Door
from tests.gateway.test_responses import RESPONSE
from tests.scripted import ScriptedUpstream, json_answer, sse


def azure(door: Door) -> openai.AsyncAzureOpenAI:
    root = door.url.removesuffix("/v1")
    return openai.AsyncAzureOpenAI(azure_endpoint=root, api_key=door.key, api_version="2024-10-21", max_retries=0)


async def test_a_deployment_is_a_model_and_the_version_stays_here(door: Door, scripted: ScriptedUpstream) -> None:
    page = {"object": "list", "data": [], "has_more": False}
    scripted.enqueue(
        json_answer(golden.COMPLETION), sse(*golden.chunks("Hel", "lo")), json_answer(golden.EMBEDDINGS),
        json_answer(RESPONSE), json_answer(page),
    )  # fmt: skip
    async with azure(door) as client:
        chat = await client.chat.completions.create(model="fast", messages=[{"role": "user", "content": "Hi"}])
        stream = await client.chat.completions.create(model="fast", messages=[], stream=True)
        text = "".join([part.choices[0].delta.content or "" async for part in stream if part.choices])
        await client.embeddings.create(model="fast", input="a", encoding_format="float")
        await client.responses.create(model="fast", input="a")
        await client.files.list(limit=3)
    assert chat.to_dict() == golden.COMPLETION
    assert text == "Hello"
    assert [request.target for request in scripted.requests] == [
        "/v1/chat/completions", "/v1/chat/completions", "/v1/embeddings", "/v1/responses", "/v1/files?limit=3",
    ]  # fmt: skip
    assert [request.json()["model"] for request in scripted.requests[:4]] == ["gpt-4o"] * 4


async def test_the_deployment_counts_and_not_the_body(door: Door, scripted: ScriptedUpstream) -> None:
    scripted.default = json_answer(golden.COMPLETION)
    root = door.url.removesuffix("/v1")
    async with door.http() as http:
        path = "/openai/deployments/fast/chat/completions?api-version=2024-10-21"
        without = await http.post(root + path, json={"messages": []})
        other = await http.post(root + path, json={"model": "nobody", "messages": []})
        unknown = await http.post(root + path.replace("fast", "nobody"), json={"messages": []})
    assert [answer.status_code for answer in (without, other, unknown)] == [200, 200, 404]
    assert unknown.json()["error"]["code"] == "model_not_found"


async def test_the_v1_form_is_served_under_openai(door: Door, scripted: ScriptedUpstream) -> None:
    scripted.default = json_answer(golden.COMPLETION)
    base = door.url.removesuffix("/v1") + "/openai/v1/"
    async with openai.AsyncAzureOpenAI(base_url=base, api_key=door.key, api_version="preview") as client:
        answer = await client.chat.completions.create(model="fast", messages=[])
        with pytest.raises(openai.NotFoundError):
            await client.chat.completions.create(model="nobody", messages=[])
    assert answer.to_dict() == golden.COMPLETION
