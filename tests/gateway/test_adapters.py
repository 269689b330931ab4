"""`base:adapter`: the client names the adapter, the alias and the key say which it may be."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.gateway import golden, house
from tests.gateway.house import Door
from tests.scripted import ScriptedUpstream, json_answer


@pytest.fixture
async def lorax(transactional_db: None, tmp_path: Path, scripted: ScriptedUpstream) -> AsyncIterator[Door]:
    """`support` is a LoRAX base model with adapters; `mixed` has a provider without them first; `*` leads elsewhere."""
    scripted.default = json_answer(golden.COMPLETION)

    def configure() -> str:
        base = f"{scripted.url}/t1/deployments/v2/llms/d1/v1"
        predibase = house.provider("predibase", base, dialect="predibase", quirks={"adapter": "{adapter}"})
        fireworks = house.provider("fireworks", scripted.url + "/fw/v1", quirks={"adapter": "{adapter}#{model}"})
        other = house.provider("other", scripted.url + "/other/v1")
        adapters = ["tickets/*", "repo/3"]
        house.alias("support", (predibase, ""), adapters=adapters)
        house.alias("mixed", (other, "m"), (fireworks, "accounts/me/deployments/d"), adapters=adapters)
        house.alias("bare", (other, "m"), adapters=adapters)
        house.alias("llama3:8b", (predibase, ""), adapters=adapters)
        house.alias("*", (other, ""))
        return house.client_key(aliases=["support", "support:tickets/*", "mixed:*", "bare:*", "llama3:8b:*"])[1]

    async with house.open_house(configure, tmp_path) as opened:
        yield opened


async def ask(door: Door, model: str) -> int:
    async with door.http() as http:
        body = {"model": model, "messages": [{"role": "user", "content": "Hi"}]}
        return (await http.post("/chat/completions", json=body)).status_code


@pytest.mark.parametrize(
    ("model", "path", "sent"),
    [
        ("support", "/t1/deployments/v2/llms/d1/v1/chat/completions", ""),
        ("support:tickets/v2/7", "/t1/deployments/v2/llms/d1/v1/chat/completions", "tickets/v2/7"),
        ("support:tickets/1@7", "/t1/deployments/v2/llms/d1/v1/chat/completions", "tickets/1@7"),
        ("mixed:repo/3", "/fw/v1/chat/completions", "repo/3#accounts/me/deployments/d"),
        ("llama3:8b:repo/3", "/t1/deployments/v2/llms/d1/v1/chat/completions", "repo/3"),
    ],
)
async def test_the_adapter_becomes_the_model_of_a_provider_that_takes_one(
    lorax: Door, scripted: ScriptedUpstream, model: str, path: str, sent: str
) -> None:
    assert await ask(lorax, model) == 200
    [request] = scripted.requests
    assert (request.target, request.json()["model"]) == (path, sent)
    [row] = await lorax.rows(1)
    assert (row.model, row.upstream_model) == (model, sent)


NOT_ALLOWED = [
    "support:repo/3",  # the alias takes it, the key may not
    "mixed:repo/4",  # the key may, the alias does not take it
    "mixed:tickets/",
    "mixed:tickets/..",
    "mixed:tickets/../../v1/models",
    "mixed:tickets/./x",
    "mixed:tickets//x",
    "mixed:/tickets/x",
    "mixed:tickets/x?y=z",
    "mixed:tickets/x#accounts/others/deployments/d",
    "mixed:tickets/%2e%2e",
    "mixed:tickets\\x",
    "mixed:" + "tickets/" + "x" * 200,
    "mixed:",
]


async def test_an_adapter_that_is_not_allowed_is_an_unknown_model(lorax: Door, scripted: ScriptedUpstream) -> None:
    for model in NOT_ALLOWED:
        assert (model, await ask(lorax, model)) == (model, 404)
    assert scripted.requests == []


async def test_an_alias_without_a_provider_that_takes_adapters_has_no_route(
    lorax: Door, scripted: ScriptedUpstream
) -> None:
    assert await ask(lorax, "bare:repo/3") == 503
    assert scripted.requests == []


async def test_a_model_with_an_adapter_can_be_looked_up(lorax: Door) -> None:
    async with lorax.http() as http:
        assert (await http.get("/models/support:tickets/1")).json()["id"] == "support:tickets/1"
        assert (await http.get("/models/support:other/1")).status_code == 404
