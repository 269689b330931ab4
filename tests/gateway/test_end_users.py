"""End users: who says who they are, what they used, and the door that is shut for one of them."""

import asyncio
import json
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth.models import User
from django.core.management import call_command
from django.test import Client
from django.utils import timezone

from ledger.models import Alert, BudgetAccount, DailyRollup, UsageRecord
from providers.endusers import EndUser, set_state
from tests.gateway import golden
from tests.gateway.house import Door, client_key
from tests.gateway.test_ephemeral_tokens import minter, token_of
from tests.gateway.test_pages import APP, BODY, looked, made, post
from tests.scripted import ScriptedUpstream, json_answer, sse

NAMED = {"x-gateway-end-user": "anna"}


async def state(*args: Any, **fields: Any) -> None:
    await sync_to_async(lambda: set_state(*args, **fields))()


@pytest.mark.parametrize(
    ("headers", "body", "name"),
    [
        ({}, {"user": "u", "safety_identifier": "s"}, "s"),
        ({}, {"user": "u"}, "u"),
        (NAMED, {"user": "u"}, "anna"),
        (NAMED, {}, "anna"),
        ({"x-gateway-end-user": "Zo\u00eb"}, {}, "Zo\u00eb"),
    ],
)
async def test_a_server_names_its_end_user(
    door: Door, scripted: ScriptedUpstream, headers: dict[str, str], body: dict[str, str], name: str
) -> None:
    scripted.default = json_answer(golden.COMPLETION)
    raw = {key: value.encode() for key, value in headers.items()}
    answer = await post(door, door.key, None, headers=raw, json={**BODY, **body})
    assert answer.status_code == 200
    assert [record.end_user for record in await door.rows(1)] == [name]
    assert scripted.requests[-1].header("x-gateway-end-user") is None


@pytest.mark.parametrize("name", [b"", b"a" * 129, b"\xff\xfe", b"a\tb"])
async def test_a_header_that_names_nobody_is_refused(door: Door, name: bytes) -> None:
    answer = await post(door, door.key, None, headers={"x-gateway-end-user": name})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "x-gateway-end-user")


async def test_only_a_server_may_name_an_end_user_by_header(door: Door, scripted: ScriptedUpstream) -> None:
    for token, origin in ((await made(), APP), (await token_of(door), None)):
        answer = await post(door, token, origin, headers=NAMED)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "x-gateway-end-user")
    assert scripted.requests == []


async def test_a_blocked_end_user_is_refused_however_it_is_named(door: Door, scripted: ScriptedUpstream) -> None:
    scripted.default = json_answer(golden.COMPLETION)
    token = await token_of(door)
    await state("anna", blocked=True)
    await looked(door)
    refused = [
        await post(door, door.key, None, headers=NAMED),
        await post(door, door.key, None, json={**BODY, "user": "anna"}),
        await post(door, token, None),
    ]
    assert {(answer.status_code, answer.json()["error"]["code"]) for answer in refused} == {(403, "end_user_blocked")}
    assert (await post(door, door.key, None, json={**BODY, "user": "bob"})).status_code == 200
    await state("anna", blocked=False)
    await looked(door)
    assert (await post(door, token, None)).status_code == 200


async def test_a_block_under_one_key_leaves_the_name_under_another_alone(
    door: Door, scripted: ScriptedUpstream
) -> None:
    scripted.default = json_answer(golden.COMPLETION)
    row, key = await minter()
    await state("anna", row.id, blocked=True)
    await looked(door)
    assert (await post(door, key, None, headers=NAMED)).status_code == 403
    assert (await post(door, door.key, None, headers=NAMED)).status_code == 200


async def test_the_streams_of_a_blocked_end_user_are_ended(door: Door, scripted: ScriptedUpstream) -> None:
    scripted.enqueue(sse(*[golden.chunk({"content": "a"})] * 300, gap=0.05))
    async with door.http(timeout=20) as http:
        body = {**BODY, "stream": True, "user": "anna"}
        async with http.stream("POST", "/chat/completions", json=body) as answer:
            await state("anna", blocked=True)
            text = (await answer.aread()).decode()
    assert json.loads(text.rstrip().rpartition("data: ")[2])["error"]["code"] == "stream_interrupted"
    assert [record.outcome for record in await door.rows(1)] == ["end_user_blocked"]


async def test_tokens_that_were_made_before_are_at_an_end_and_later_ones_are_not(
    door: Door, scripted: ScriptedUpstream
) -> None:
    scripted.default = json_answer(golden.COMPLETION)
    old, other = await token_of(door), await token_of(door, end_user="bob")
    await state("anna", tokens_before=timezone.now() + timedelta(seconds=1))
    await looked(door)
    assert [(await post(door, token, None)).status_code for token in (old, other)] == [401, 200]
    await state("anna", tokens_before=timezone.now() - timedelta(seconds=60))
    await looked(door)
    assert (await post(door, await token_of(door), None)).status_code == 200
    assert (await post(door, door.key, None, headers=NAMED)).status_code == 200


async def test_the_holder_of_a_token_sees_its_own_and_no_money_of_the_keys(
    door: Door, scripted: ScriptedUpstream
) -> None:
    scripted.default = json_answer(golden.COMPLETION)
    _, key = await minter(end_user_rpm=30, end_user_budget="1.00/day", budget="50/month", tags={"a": "b"})
    token = await token_of(door, key)
    await post(door, token, None)
    await door.rows(1)
    async with door.http() as http:
        said = (await http.get("/key", headers={"authorization": f"Bearer {token}"})).json()
        whole = (await http.get("/key", headers={"authorization": f"Bearer {key}", **NAMED})).json()
    assert (said["kind"], whole["kind"]) == ("ephemeral", "secret")
    assert not {"budgets", "team", "tags", "name", "limits"} & said.keys()
    assert said["end_user"]["name"] == "anna"
    assert said["end_user"]["limits"]["requests_per_minute"]["limit"] == 30
    assert said["end_user"]["budgets"][0]["amount"] == "1.00"
    assert said["end_user"]["today"]["requests"] == 1
    assert whole["end_user"]["today"] == said["end_user"]["today"]


@pytest.mark.django_db
def test_the_command_blocks_lifts_and_ends_tokens(capsys: pytest.CaptureFixture[str]) -> None:
    row, _ = client_key()
    call_command("block_end_user", "anna", "--key", row.id, "--json")
    assert json.loads(capsys.readouterr().out)["blocked"] is True
    call_command("block_end_user", "anna", "--key", row.id, "--tokens")
    call_command("block_end_user", "anna", "--key", row.id, "--lift")
    [found] = EndUser.objects.all()
    assert (found.key, found.blocked, found.actor) == (row.id, False, "command:block_end_user")
    assert found.tokens_before is not None


def used(name: str, key: str, day: Any, requests: int = 1) -> None:
    UsageRecord.objects.create(id=f"req_{name}_{key}_{requests}", started_at=timezone.now(), key_id=key, end_user=name)
    DailyRollup.objects.create(
        id=f"{name}{key}"[:32], day=day, key_id=key, end_user=name, requests=requests, cost=Decimal("0.5")
    )


@pytest.mark.django_db
def test_an_erased_end_user_leaves_sums_and_no_name(capsys: pytest.CaptureFixture[str]) -> None:
    today = timezone.now().date()
    for name, key, requests in (("anna", "k1", 3), ("anna", "k2", 4), ("bob", "k1", 5)):
        used(name, key, today, requests)
    BudgetAccount.objects.create(id="a1", budget="end_user:k1:day", scope="end_user", subject="anna", amount=1)
    Alert.objects.create(id="x", kind="budget", text="of end user anna", facts={"end_user": "anna"})
    call_command("erase_end_user", "anna", "--dry-run", "--json")
    counted = json.loads(capsys.readouterr().out)
    assert UsageRecord.objects.filter(end_user="anna").count() == 2
    call_command("erase_end_user", "anna", "--json")
    assert {**json.loads(capsys.readouterr().out), "dry_run": True} == counted
    assert (counted["rows"], counted["totals"], counted["budgets"], counted["alerts"]) == (2, 2, 1, 1)
    assert set(DailyRollup.objects.values_list("end_user", "key_id", "requests", "cost")) == {
        ("", "k1", 3, Decimal("0.5")),
        ("", "k2", 4, Decimal("0.5")),
        ("bob", "k1", 5, Decimal("0.5")),
    }
    assert set(UsageRecord.objects.values_list("end_user", flat=True)) == {"", "bob"}
    assert BudgetAccount.objects.get().subject == ""
    assert not Alert.objects.exists()


@pytest.mark.django_db
def test_under_one_key_only_its_own_end_user_is_erased() -> None:
    row, _ = client_key()
    for key in (row.id, "k2"):
        used("anna", key, timezone.now().date())
    call_command("erase_end_user", "anna", "--key", row.id, "--json")
    assert dict(UsageRecord.objects.values_list("key_id", "end_user")) == {row.id: "", "k2": "anna"}


@pytest.mark.django_db
def test_the_page_of_an_end_user_shows_what_it_used_and_blocks_it() -> None:
    used("anna <b>", "k1", timezone.now().date(), 3)
    DailyRollup.objects.update(unpriced=2)
    client = Client()
    client.force_login(User.objects.create_superuser("root"))
    url = "/admin/ledger/dailyrollup/end-user/?name=anna+%3Cb%3E"
    page = client.get(url).content.decode()
    assert "anna &lt;b&gt;" in page
    assert "anna <b>" not in page
    assert "3 requests" in page
    assert "of 2 the price is not known" in page
    assert client.post(url, {"do": "block"}).status_code == 302
    assert EndUser.objects.get(blocked=True).name == "anna <b>"
    assert "Let in again" in client.get(url).content.decode()
    client.post(url, {"do": "lift"})
    assert not EndUser.objects.filter(blocked=True).exists()
    assert "end-user/?name=" in client.get("/admin/ledger/dailyrollup/").content.decode()
    client.force_login(User.objects.create_user("guest", is_staff=True))
    assert client.get(url).status_code == 403


async def test_a_report_of_a_leaked_key_flags_it_and_alerts(door: Door) -> None:
    row, key = await minter()
    page = await made()

    async def report(token: Any, **options: Any) -> tuple[int, Any]:
        async with door.http() as http:
            answer = await http.post("/keys/report", json={"key": token}, headers={"authorization": ""}, **options)
        return answer.status_code, answer.json()

    said = [await report(token) for token in (key, page, "sk-gw-junk", "from elsewhere", key)]
    assert said == [(202, {"object": "key.report", "received": True})] * 5

    async def flagged() -> list[str]:
        return await sync_to_async(lambda: list(Alert.objects.values_list("facts__key", flat=True)))()

    async with asyncio.timeout(5):
        while not await flagged():
            await asyncio.sleep(0.01)
    assert await flagged() == [row.id]
    await sync_to_async(row.refresh_from_db)()
    assert row.reported_at is not None
    assert (await report(7))[0] == 400
    assert [(await report("x"))[0] for _ in range(6)][-1] == 429
    assert (await report("x" * 9000))[0] == 413
