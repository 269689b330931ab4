"""GET /v1/key, through the front door."""

from collections.abc import AsyncIterator
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import sync_to_async

from ledger.models import Alert, PriceRow
from providers.models import Team
from tests.gateway import golden, house
from tests.scripted import ScriptedUpstream, json_answer

EXPIRES = datetime.fromisoformat("2100-01-01T00:00:00+00:00")
BODY = {"model": "fast", "max_tokens": 10, "messages": [{"role": "user", "content": "Hi"}]}


@pytest.fixture
async def allowed(transactional_db: None, tmp_path: Path, scripted: ScriptedUpstream) -> AsyncIterator[house.Door]:
    """As `door`, with a key that has a team, limits, scopes and a budget."""

    def configure() -> str:
        lab = house.provider("lab", scripted.url + "/v1")
        house.alias("fast", (lab, "gpt-4o"))
        PriceRow.objects.create(provider="lab", request=Decimal("0.01"))
        team = Team.objects.create(name="web", rpm=6, burst=600, budget="50/month")
        return house.client_key(
            aliases=["fast"],
            expires_at=EXPIRES,
            team=team,
            rpm=6,
            burst=60,
            concurrency=5,
            budget="5.00/month, 1/day",
            endpoints=["chat.completions"],
            max_tokens=100,
            tags={"cost_centre": "4711"},
            end_user_budget="0.10/day",
            cidrs=["127.0.0.0/8"],
        )[1]

    async with house.open_house(configure, tmp_path) as opened:
        yield opened


async def asked(door: house.Door) -> dict[str, Any]:
    async with door.http() as http:
        answer = await http.get("/key")
    assert answer.status_code == 200
    found: dict[str, Any] = answer.json()
    return found


async def test_a_holder_sees_what_the_key_may_do_and_what_is_left(
    allowed: house.Door, scripted: ScriptedUpstream
) -> None:
    found = await asked(allowed)
    key_id = found.pop("id")
    assert allowed.key.startswith(f"sk-gw-{key_id}-")
    assert found == {
        "object": "key",
        "kind": "secret",
        "name": "app",
        "end_user": None,
        "aliases": ["fast"],
        "endpoints": ["chat.completions"],
        "max_tokens": 100,
        "max_n": None,
        "tags": {"cost_centre": "4711"},
        "expires_at": int(EXPIRES.timestamp()),
        "limits": {
            "requests_per_minute": {"limit": 6, "remaining": 60, "full_in_seconds": 0.0},
            "tokens_per_minute": None,
            "concurrency": 5,
        },
        "budgets": [
            {"period": "month", "amount": "5.00", "spent": "0", "remaining": "5.00"},
            {"period": "day", "amount": "1", "spent": "0", "remaining": "1"},
        ],
        "team": {
            "name": "web",
            "limits": {
                "requests_per_minute": {"limit": 6, "remaining": 600, "full_in_seconds": 0.0},
                "tokens_per_minute": None,
                "concurrency": None,
            },
            "budgets": [{"period": "month", "amount": "50", "spent": "0", "remaining": "50"}],
        },
        "end_user_limits": {"requests_per_minute": None, "tokens_per_minute": None, "concurrency": None},
        "end_user_budget": {"amount": "0.10", "period": "day"},
    }


async def test_what_was_used_is_no_longer_left(allowed: house.Door, scripted: ScriptedUpstream) -> None:
    scripted.default = json_answer(golden.COMPLETION)
    async with allowed.http() as http:
        assert (await http.post("/chat/completions", json=BODY)).status_code == 200
    assert [row.cost for row in await allowed.rows(1)] == [Decimal("0.01")]
    found = await asked(allowed)
    assert found["limits"]["requests_per_minute"]["remaining"] == 59
    assert found["team"]["limits"]["requests_per_minute"]["remaining"] == 599
    month, day = found["budgets"]
    assert month["spent"] == day["spent"] == found["team"]["budgets"][0]["spent"] == "0.01"
    assert (month["remaining"], day["remaining"]) == ("4.99", "0.99")


async def test_a_key_without_anything_has_no_limits(door: house.Door) -> None:
    found = await asked(door)
    nothing = {"requests_per_minute": None, "tokens_per_minute": None, "concurrency": None}
    assert (found["limits"], found["team"], found["budgets"], found["expires_at"]) == (nothing, None, [], None)


async def test_no_key_sees_nothing(door: house.Door) -> None:
    async with door.http() as http:
        answer = await http.get("/key", headers={"authorization": "Bearer sk-wrong-0123456789-abcdef"})
    assert answer.status_code == 401


async def test_small_amounts_are_told_in_figures(
    transactional_db: None, tmp_path: Path, scripted: ScriptedUpstream
) -> None:
    scripted.default = json_answer(golden.COMPLETION)

    def configure() -> str:
        house.alias("fast", (house.provider("lab", scripted.url + "/v1"), "gpt-4o"))
        PriceRow.objects.create(provider="lab", request=Decimal("0.00000003"), starts_at="2020-01-01T00:00Z")
        return house.client_key(budget="0.000001/total", budget_alerts=[1], may_explain=True)[1]

    async with house.open_house(configure, tmp_path) as door, door.http() as http:
        await http.post("/chat/completions", json=BODY)
        await door.rows(1)
        [budget] = (await asked(door))["budgets"]
        explained = await http.post("/chat/completions", json=BODY, headers={"x-gateway-explain": "1"})
        alert = await sync_to_async(Alert.objects.get)()
    assert (budget["spent"], budget["remaining"]) == ("0.00000003", "0.00000097")
    assert '"most_cost":"0.00000003"' in explained.text
    assert (alert.facts["spent"], alert.facts["amount"]) == ("0.00000003", "0.000001")
    assert "is spent: 0.00000003 of 0.000001 US dollars" in alert.text
