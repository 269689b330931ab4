"""Where a call goes: the providers whose addresses are not OpenAI's, and those that do not answer."""

import asyncio
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.canaries import PROMPT
from tests.gateway import golden, house
from tests.gateway.house import TOKEN
from tests.scripted import ScriptedUpstream, json_answer

ASK = {"messages": [{"role": "user", "content": PROMPT}]}
# https://docs.predibase.com/user-guide/inference/migrate-openai: deployment in the path, adapter as the model.
PREDIBASE = "/tenant1/deployments/v2/llms/mistral-7b/v1"


async def test_case_04_predibases_base_model_is_the_empty_name(
    transactional_db: None, tmp_path: Path, scripted: ScriptedUpstream
) -> None:
    scripted.default = json_answer(golden.COMPLETION)

    def configure() -> str:
        predibase = house.provider("predibase", scripted.url + PREDIBASE, options={"include_usage": False})
        house.alias("base", (predibase, ""))
        house.alias("tuned", (predibase, "my-adapter/3"))
        house.alias("*", (predibase, ""))
        return house.client_key()[1]

    async with house.open_house(configure, tmp_path) as door, door.http() as http:
        for model in ("base", "tuned", "", "other-adapter/1"):
            assert (await http.post("/chat/completions", json={"model": model, **ASK})).status_code == 200
    assert [request.target for request in scripted.requests] == [PREDIBASE + "/chat/completions"] * 4
    assert [request.json()["model"] for request in scripted.requests] == ["", "my-adapter/3", "", "other-adapter/1"]
    assert {request.header("authorization") for request in scripted.requests} == {f"Bearer {TOKEN}"}


async def test_case_06_azure_has_the_deployment_in_the_path_and_the_date_in_the_query(
    transactional_db: None, tmp_path: Path, scripted: ScriptedUpstream
) -> None:
    scripted.default = json_answer(golden.COMPLETION)

    def configure() -> str:
        dated = house.provider("dated", scripted.url, dialect="azure", options={"api_version": "2024-10-21"})
        v1 = house.provider("v1", scripted.url + "/openai/v1", dialect="azure")
        house.alias("dated", (dated, "my-gpt.4o"))
        house.alias("azure/*", (dated, ""))
        house.alias("v1", (v1, "gpt-4o"))
        return house.client_key()[1]

    async with house.open_house(configure, tmp_path) as door, door.http() as http:
        for model in ("dated", "v1"):
            assert (await http.post("/chat/completions", json={"model": model, **ASK})).status_code == 200
        for name in ("..", ".", "../../admin", "a/b", "a?b", "a#b", "a%2f", "a\\b", "", "a b", "a\r\nx"):
            answer = await http.post("/chat/completions", json={"model": f"azure/{name}", **ASK})
            assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")
    assert [request.target for request in scripted.requests] == [
        "/openai/deployments/my-gpt.4o/chat/completions?api-version=2024-10-21",
        "/openai/v1/chat/completions",
    ]
    for request in scripted.requests:
        assert request.header("api-key") == TOKEN
        assert request.header("authorization") is None


@pytest.fixture
def dropping() -> Iterator[str]:
    """An address whose packets are dropped: a listener whose queue is full answers no SYN."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(0)
    address = listener.getsockname()
    fillers = [socket.socket() for _ in range(4)]
    for filler in fillers:
        filler.setblocking(False)
        filler.connect_ex(address)
    yield f"http://127.0.0.1:{address[1]}/v1"
    for each in (*fillers, listener):
        each.close()


async def test_r05_an_address_that_drops_packets_fails_over_within_the_connect_limit(
    transactional_db: None, tmp_path: Path, scripted: ScriptedUpstream, dropping: str
) -> None:
    scripted.default = json_answer(golden.COMPLETION)

    def configure() -> str:
        gone = house.provider("gone", dropping, timeouts={"connect": 1.0})
        lab = house.provider("lab", scripted.url + "/v1")
        house.alias("alone", (gone, "m"))
        house.alias("both", (gone, "m"), (lab, "m"))
        return house.client_key()[1]

    await asyncio.sleep(0.05)
    async with house.open_house(configure, tmp_path) as door, door.http(timeout=20) as http:
        alone = await http.post("/chat/completions", json={"model": "alone", **ASK})
        both = await http.post("/chat/completions", json={"model": "both", **ASK})
        rows = await door.rows(2)
    assert (alone.status_code, alone.json()["error"]["code"]) == (504, "upstream_timeout")
    assert both.headers["x-gateway-provider"] == "lab"
    assert all(0.9 <= answer.elapsed.total_seconds() <= 1.6 for answer in (alone, both))
    assert [row.sent for row in rows] == [False, True]
    assert [part["outcome"] for part in rows[1].attempts] == ["upstream_timeout", "ok"]
