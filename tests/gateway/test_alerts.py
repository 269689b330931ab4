"""Alerts: each threshold is told once, by a webhook or an e-mail, whatever the number of processes."""

import asyncio
import time
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.core import mail
from django.test import override_settings

from gateway.alerts import velocity
from ledger import alerts
from ledger.alerts import Velocity
from ledger.models import Alert, PriceRow
from tests.gateway import golden, house
from tests.gateway.house import Door
from tests.gateway.leaving import ASK
from tests.scripted import ScriptedUpstream, json_answer


@pytest.fixture
async def ear() -> AsyncIterator[ScriptedUpstream]:
    async with ScriptedUpstream() as listening:
        yield listening


@pytest.fixture
async def alarmed(
    transactional_db: None, tmp_path: Path, scripted: ScriptedUpstream, ear: ScriptedUpstream
) -> AsyncIterator[Door]:
    """A call costs a dime and the key has a dollar: alerts at 20 and 50 percent, and beyond 25 cents a minute."""

    def configure() -> str:
        lab = house.provider("lab", scripted.url + "/v1")
        house.alias("fast", (lab, "gpt-4o"))
        PriceRow.objects.create(model="gpt-4o", starts_at="2020-01-01T00:00Z", request="0.1")
        return house.client_key(budget="1/total", budget_alerts=[20, 50])[1]

    values: dict[str, Any] = {
        "GATEWAY_ALERT_WEBHOOK": ear.url + "/hook",
        "GATEWAY_ALERT_EMAILS": ["ops@example.org"],
        "GATEWAY_ALERT_VELOCITY": "0.25/1m",
    }
    with override_settings(**values):
        async with house.open_house(configure, tmp_path) as opened:
            yield opened


async def told(count: int) -> list[Alert]:
    ends = time.monotonic() + 8
    while True:
        found = await sync_to_async(lambda: list(Alert.objects.filter(sent_at__isnull=False).order_by("id")))()
        if len(found) >= count or time.monotonic() > ends:
            return found
        await asyncio.sleep(0.1)


async def test_a_threshold_of_a_budget_is_told_once_and_over_both_ways(
    alarmed: Door, scripted: ScriptedUpstream, ear: ScriptedUpstream
) -> None:
    scripted.default = json_answer(golden.COMPLETION)
    async with alarmed.http() as http:
        for _ in range(3):
            assert (await http.post("/chat/completions", json=ASK)).status_code == 200
    await alarmed.rows(3)
    [alert] = await told(1)
    assert (alert.kind, alert.tries, alert.facts["percent"]) == ("budget", 1, 20)
    [request] = ear.requests
    assert request.target == "/hook"
    said = request.json()
    assert (said["id"], said["kind"], said["scope"], said["amount"]) == (alert.id, "budget", "key", "1")
    assert [(message.to, message.body) for message in mail.outbox] == [(["ops@example.org"], alert.text)]
    assert house_keys(request.body) == []


def house_keys(body: bytes) -> list[bytes]:
    return [mark for mark in (b"sk-gw-", house.TOKEN.encode()) if mark in body]


async def test_a_webhook_that_refuses_is_told_again_and_the_calls_go_on(
    alarmed: Door, scripted: ScriptedUpstream, ear: ScriptedUpstream
) -> None:
    scripted.default = json_answer(golden.COMPLETION)
    ear.default = json_answer({}, 500)
    async with alarmed.http() as http:
        for _ in range(2):
            assert (await http.post("/chat/completions", json=ASK)).status_code == 200
    for _ in range(100):
        found = await sync_to_async(Alert.objects.first)()
        if found is not None and ear.requests:
            break
        await asyncio.sleep(0.1)
    assert found is not None
    assert found.sent_at is None
    # As a minute later:
    await sync_to_async(lambda: Alert.objects.update(claimed_at="2020-01-01T00:00Z"))()
    ear.default = json_answer({})
    [alert] = await told(1)
    assert alert.tries >= 2
    assert {request.json()["id"] for request in ear.requests} == {alert.id}


async def test_a_key_that_spends_too_fast_is_told_of_once_a_window(alarmed: Door, scripted: ScriptedUpstream) -> None:
    scripted.default = json_answer(golden.COMPLETION)
    async with alarmed.http() as http:
        for _ in range(3):
            await http.post("/chat/completions", json=ASK)
    rows = await alarmed.rows(3)

    def watched() -> list[Alert]:
        for _ in range(3):
            alerts.watch(Velocity(Decimal("0.25"), 60), 1_000_000.0)
        alerts.watch(Velocity(Decimal("0.30"), 60), 1_000_000.0)
        return list(Alert.objects.filter(kind="velocity"))

    [alert] = await sync_to_async(watched)()
    assert alert.facts == {"key": rows[0].key_id, "spent": "0.3", "seconds": 60}


@pytest.mark.django_db
def test_of_two_processes_one_tells() -> None:
    Alert.objects.create(id="a", kind="budget", text="t")
    assert [alert.id for alert in alerts.claim()] == ["a"]
    assert alerts.claim() == []
    alerts.told("a")
    Alert.objects.update(claimed_at="2020-01-01T00:00Z")
    assert alerts.claim() == []


def test_a_velocity_is_dollars_in_a_time() -> None:
    assert velocity("") is None
    assert velocity("5.00/10m") == Velocity(Decimal("5.00"), 600)
    assert velocity("20/2h") == Velocity(Decimal(20), 7200)
    for wrong in ("5", "5/m", "0/1m", "5/0m", "-1/1m", "5/1d"):
        with pytest.raises(ValueError, match="no spending in a time"):
            velocity(wrong)


async def test_a_mail_server_that_is_away_has_the_webhook_told_once(
    alarmed: Door, scripted: ScriptedUpstream, ear: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted.default = json_answer(golden.COMPLETION)

    def away(*_: Any) -> None:
        raise ConnectionRefusedError

    async def tries() -> int:
        found = await sync_to_async(Alert.objects.first)()
        return found.tries if found else 0

    async def as_a_minute_later() -> None:
        await sync_to_async(Alert.objects.update)(claimed_at="2020-01-01T00:00Z")

    with monkeypatch.context() as patch:
        patch.setattr("gateway.alerts.send_mail", away)
        async with alarmed.http() as http:
            for _ in range(2):
                assert (await http.post("/chat/completions", json=ASK)).status_code == 200
        while not await tries():
            await asyncio.sleep(0.05)
        await as_a_minute_later()
        while await tries() < 2:
            await asyncio.sleep(0.05)
    await as_a_minute_later()
    [alert] = await told(1)
    assert alert.tries >= 2
    assert [request.json()["id"] for request in ear.requests] == [alert.id]
    assert [message.body for message in mail.outbox] == [alert.text]
