"""The line that a request leaves in the log, and the id that it goes by."""

import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.test import override_settings

from ledger.models import PriceRow
from proxysite import logs
from tests.gateway import golden, house
from tests.gateway.house import Door
from tests.gateway.leaving import ASK, STREAM
from tests.scripted import ScriptedUpstream, json_answer, sse

NGINX = "5f1c0c3f9a6e4c0b8f1d2e3a4b5c6d7e"
UUID = "5f1c0c3f-9a6e-4c0b-8f1d-2e3a4b5c6d7e"


@pytest.fixture(autouse=True)
def _as_in_production() -> Iterator[None]:
    logs.configure(form="json")
    yield
    logs.configure(form="console", level="debug")


@pytest.fixture
async def priced(transactional_db: None, tmp_path: Path, scripted: ScriptedUpstream) -> AsyncIterator[Door]:
    def configure() -> str:
        lab = house.provider("lab", scripted.url + "/v1")
        house.alias("fast", (lab, "gpt-4o"))
        PriceRow.objects.create(provider="lab", model="gpt-4o", input="1", output="2")
        return house.client_key()[1]

    async with house.open_house(configure, tmp_path) as opened:
        yield opened


def access_line(capfd: pytest.CaptureFixture[str]) -> dict[str, Any]:
    [line] = [one for one in map(json.loads, capfd.readouterr().err.splitlines()) if one["event"] == "request"]
    assert isinstance(line, dict)
    return line


async def test_a_request_leaves_one_line_that_says_what_it_took(
    priced: Door, scripted: ScriptedUpstream, capfd: pytest.CaptureFixture[str]
) -> None:
    scripted.default = json_answer(golden.COMPLETION)
    async with priced.http() as http:
        answer = await http.post("/chat/completions", json=ASK)
    [row] = await priced.rows(1)
    line = access_line(capfd)
    times = {name: line.pop(name) for name in ("ms", "ttft_ms", "upstream_ms", "gateway_ms")}
    assert all(value >= 0 for value in times.values())
    assert times["ms"] == pytest.approx(times["upstream_ms"] + times["gateway_ms"], abs=0.11)
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "event": "request", "level": "info", "logger": "access", "request_id": row.id, "method": "POST",
        "path": "/v1/chat/completions", "status": 200, "key": row.key_id, "bytes_out": len(answer.content), "end": "ok",
        "alias": "fast", "model": "fast", "provider": "lab", "upstream_model": "gpt-4o", "stream": False,
        "attempts": 1, "tokens_in": 19, "tokens_out": 10, "tokens_cached": 4, "cache": None,
        "cost": f"{row.cost.normalize():f}",
    }  # fmt: skip
    assert answer.headers["x-request-id"] == row.id


async def test_a_streams_time_upstream_lasts_until_its_end(
    door: Door, scripted: ScriptedUpstream, capfd: pytest.CaptureFixture[str]
) -> None:
    scripted.default = sse(*golden.chunks("One", " two"), gap=0.05)
    async with door.http() as http:
        await http.post("/chat/completions", json=STREAM)
    await door.rows(1)
    line = access_line(capfd)
    assert line["stream"] is True
    assert line["upstream_ms"] >= 200
    assert line["ttft_ms"] < line["upstream_ms"] <= line["ms"]
    assert line["gateway_ms"] < 150


async def test_a_line_names_the_key_by_its_id_and_shows_no_key_in_a_path(
    door: Door, capfd: pytest.CaptureFixture[str]
) -> None:
    async with door.http() as http:
        await http.get(f"/{door.key}/models")
    line = access_line(capfd)
    assert line["path"] == f"/v1/{door.key[:16]}***/models"
    assert line["key"] == door.key[6:16]


async def test_a_strangers_request_id_is_not_taken(door: Door, scripted: ScriptedUpstream) -> None:
    scripted.default = json_answer(golden.COMPLETION)
    async with door.http() as http:
        answer = await http.post("/chat/completions", json=ASK, headers={"x-request-id": NGINX})
    [row] = await door.rows(1)
    assert row.id == answer.headers["x-request-id"]
    assert row.id.startswith("req_")


@pytest.mark.parametrize(
    "trusted",
    [{"GATEWAY_TRUSTED_PROXY_HOPS": 1}, {"GATEWAY_REQUEST_ID_FROM": ["10.0.0.0/8", "127.0.0.0/8"]}],
    ids=["hops", "network"],
)
@pytest.mark.parametrize("name", [NGINX, UUID, "abcd.efg"])
async def test_a_trusted_proxys_request_id_is_kept_and_two_of_a_name_are_two_rows(
    door: Door, scripted: ScriptedUpstream, trusted: dict[str, Any], name: str
) -> None:
    scripted.default = json_answer(golden.COMPLETION)
    with override_settings(**trusted):
        async with door.http() as http:
            for _ in range(2):
                answer = await http.post("/chat/completions", json=ASK, headers={"x-request-id": name})
                assert answer.headers["x-request-id"] == name
    rows = await door.rows(2)
    assert len({row.id for row in rows}) == 2
    assert all(row.id.startswith(name.replace("-", "")) and len(row.id) == 40 for row in rows)


@pytest.mark.parametrize("name", ["short", "x" * 33, 'quo"te-and-more', "two words", "line\tbreak1"])
async def test_what_is_no_name_is_not_taken_from_anyone(door: Door, name: str) -> None:
    with override_settings(GATEWAY_TRUSTED_PROXY_HOPS=1):
        async with door.http() as http:
            answer = await http.get("/models", headers={"x-request-id": name})
    assert answer.headers["x-request-id"].startswith("req_")


async def test_the_network_is_that_of_the_connection(door: Door) -> None:
    with override_settings(GATEWAY_REQUEST_ID_FROM=["192.0.2.0/24"]):
        async with door.http() as http:
            answer = await http.get("/models", headers={"x-request-id": NGINX, "x-forwarded-for": "192.0.2.7"})
    assert answer.headers["x-request-id"].startswith("req_")
