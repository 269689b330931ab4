"""What would become of a request, by the header and by the command: nothing is sent, taken or written."""

import io
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.core.management import CommandError, call_command

from gateway.errors import UpstreamUnreachable
from ledger.models import PriceRow, UsageRecord
from providers.models import ClientKey, Provider, Team
from tests.gateway import golden, house
from tests.scripted import ScriptedUpstream, json_answer

BODY = {"model": "fast", "max_tokens": 10, "messages": [{"role": "user", "content": "Hi"}]}
EXPLAIN = {"x-gateway-explain": "1"}


@pytest.fixture
async def door(transactional_db: None, tmp_path: Path, scripted: ScriptedUpstream) -> AsyncIterator[house.Door]:
    scripted.default = json_answer(golden.COMPLETION)

    def configure() -> str:
        lab, spare = (house.provider(name, scripted.url + "/v1") for name in ("lab", "spare"))
        off = Provider.objects.create(name="off", base_url="https://off.example.com/v1", enabled=False)
        house.alias("fast", (lab, "gpt-4o"), (spare, "gpt-4o-mini"), (off, "gpt-5"), rpm=6000, cache="on")
        PriceRow.objects.create(provider="lab", request="0.01")
        team = Team.objects.create(name="web", budget="50/month")
        bounds = {"rpm": 600, "tpm": 90_000, "concurrency": 5, "budget": "5.00/month"}
        house.client_key("plain")
        return house.client_key("asker", team=team, may_explain=True, **bounds)[1]

    async with house.open_house(configure, tmp_path) as opened:
        yield opened


async def explained(door: house.Door, **body: Any) -> dict[str, Any]:
    async with door.http() as http:
        answer = await http.post("/chat/completions", json=BODY | body, headers=EXPLAIN)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def test_the_header_tells_everything_and_nothing_is_sent_taken_or_written(
    door: house.Door, scripted: ScriptedUpstream
) -> None:
    found = await explained(door)
    again = await explained(door)
    assert again == found  # nothing was taken
    assert (found["object"], found["alias"], found["strategy"]) == ("gateway.explanation", "fast", "ordered")
    first, second, third = found["routes"]
    assert (first["provider"], first["model"], first["place"], first["credential"]) == ("lab", "gpt-4o", 1, "main")
    assert (first["why"], first["breaker"]) == ("as the operator has put them", {"state": "closed"})
    assert (first["price_source"], first["most_cost"]) == ("operator", "0.01")
    assert (second["provider"], second["place"], second["price_source"]) == ("spare", 2, None)
    assert (third["provider"], third["place"], third["why"]) == ("off", None, "it is disabled")
    assert found["most_cost"] == "0.01"
    assert found["tokens"]["most_out"] == 10
    limits = {(one["of"], one["kind"]): one for one in found["limits"]}
    assert limits["key", "requests at once"]["limit"] == 5
    assert (limits["key", "requests a minute"]["limit"], limits["key", "requests a minute"]["remaining"]) == (600, 60)
    assert limits["key", "tokens a minute"]["takes"] == found["tokens"]["estimated"]
    assert limits["model", "requests a minute"]["limit"] == 6000
    budgets = {one["of"]: one for one in found["budgets"]}
    assert {name: one["remaining"] for name, one in budgets.items()} == {"key": "5.00", "team": "50"}
    assert found["cache"]["state"] == "miss"
    assert len(found["cache"]["key"]) >= 32
    assert scripted.requests == []
    assert await door.rows(1, within=0.6) == []


async def test_it_tells_what_is_left_after_a_call_and_that_its_answer_is_kept(
    door: house.Door, scripted: ScriptedUpstream
) -> None:
    key = (await explained(door))["cache"]["key"]
    async with door.http() as http:
        assert (await http.post("/chat/completions", json=BODY)).status_code == 200
    await door.rows(1)
    found = await explained(door)
    assert found["cache"] == {"state": "hit", "key": key}
    [limit] = [one for one in found["limits"] if (one["of"], one["kind"]) == ("key", "requests a minute")]
    assert limit["remaining"] <= 60
    assert {one["of"]: one["spent"] for one in found["budgets"]} == {"key": "0.01", "team": "0.01"}
    assert (await explained(door, temperature=0.5))["cache"]["state"] == "miss"
    assert len(scripted.requests) == 1


async def test_an_open_breaker_is_told_with_its_reason_and_when_it_is_tried(door: house.Door) -> None:
    assert door.engine.process is not None
    breakers = door.engine.process.breakers
    [target] = [one for one in await _targets(door) if one.provider.name == "lab"]
    for _ in range(5):
        breakers.failed(target, UpstreamUnreachable("no", sent=False), 0.1)
    state = (await explained(door))["routes"][0]["breaker"]
    assert (state["state"], state["because"], state["status"]) == ("open", "upstream_unreachable", None)
    assert 0 < state["trial_in_seconds"] <= 7.5


async def _targets(door: house.Door) -> Any:
    from providers import snapshot

    config = snapshot.current()
    match = config.match("fast")
    assert match is not None
    return config.targets(match[0], "fast")


async def test_without_leave_it_is_refused_and_nothing_is_sent(door: house.Door, scripted: ScriptedUpstream) -> None:
    _, plain = await sync_to_async(house.client_key)("other")
    headers = {"authorization": f"Bearer {plain}", **EXPLAIN}
    async with door.http() as http:
        answer = await http.post("/chat/completions", json=BODY, headers=headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "key_scope")
        refused = await http.post("/chat/completions", json=BODY | {"model": "nobody"}, headers=headers)
        assert refused.status_code == 403
    assert scripted.requests == []


async def test_what_the_request_itself_would_be_refused_for_is_said(door: house.Door) -> None:
    async with door.http() as http:
        answer = await http.post("/chat/completions", json=BODY | {"model": "unknown"}, headers=EXPLAIN)
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")


async def test_the_command_tells_the_same_from_the_database(door: house.Door, scripted: ScriptedUpstream) -> None:
    async with door.http() as http:
        assert (await http.post("/chat/completions", json=BODY)).status_code == 200
    await door.rows(1)

    def run(*arguments: str) -> Any:
        out = io.StringIO()
        call_command("explain", "--key", ClientKey.objects.get(name="asker").id, *arguments, stdout=out)
        return json.loads(out.getvalue())

    found = await sync_to_async(run)("--model", "fast", "--max-tokens", "10")
    assert (found["key"]["name"], found["key"]["live"], found["key"]["team"]) == ("asker", True, "web")
    assert [route["provider"] for route in found["routes"]] == ["lab", "spare", "off"]
    assert found["routes"][0]["breaker"] is None
    assert found["most_cost"] == "0.01"
    assert {one["of"]: one["spent"] for one in found["budgets"]} == {"key": "0.01", "team": "0.01"}
    assert found["limits_counted_in"] == "the memory of the one process that serves, which this command does not see"
    assert await sync_to_async(UsageRecord.objects.count)() == 1
    assert len(scripted.requests) == 1
    with pytest.raises(CommandError, match="It would be refused with 404: The model `unknown` does not exist"):
        await sync_to_async(run)("--model", "unknown")
