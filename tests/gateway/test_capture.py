"""Payloads that are kept: only where a key or an alias says so, redacted, sealed, and for a while."""

import asyncio
import random
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.db import connection
from django.test import override_settings
from django.utils import timezone

from gateway import capturing
from ledger import capture, erasure
from ledger.models import CapturedPayload, PayloadView, UsageRecord
from providers import vault
from providers.models import ClientKey, ModelAlias
from providers.reseal import rewrap, status
from tests.canaries import ANSWER, PROMPT
from tests.gateway import golden, house
from tests.gateway.house import Door
from tests.gateway.leaving import ASK, STREAM
from tests.scripted import ScriptedUpstream, json_answer, sse

Opener = Callable[..., AbstractAsyncContextManager[Door]]


@pytest.fixture
def opener(transactional_db: None, tmp_path: Path, scripted: ScriptedUpstream) -> Opener:
    def opened(*, key: float = 0, alias: float = 0, **more: Any) -> AbstractAsyncContextManager[Door]:
        def configure() -> str:
            lab = house.provider("lab", scripted.url + "/v1")
            house.alias("fast", (lab, "gpt-4o"), capture=alias)
            return house.client_key(capture=key, **more)[1]

        return house.open_house(configure, tmp_path)

    return opened


async def kept(count: int, *, within: float = 4.0) -> list[CapturedPayload]:
    ends = asyncio.get_running_loop().time() + within
    while True:
        rows = await sync_to_async(lambda: list(CapturedPayload.objects.order_by("at")))()
        if len(rows) >= count or asyncio.get_running_loop().time() > ends:
            return rows
        await asyncio.sleep(0.05)


async def texts(row: CapturedPayload) -> tuple[str, str]:
    return await sync_to_async(capture.opened)(row, viewer="tests", address="")


async def test_nothing_is_kept_by_default(door: Door, scripted: ScriptedUpstream) -> None:
    scripted.default = json_answer(golden.COMPLETION)
    async with door.http() as http:
        await http.post("/chat/completions", json=ASK)
    await door.rows(1)
    process = await door.engine.running()
    assert process.captures is not None
    assert await kept(1, within=1.5) == []
    assert await sync_to_async(lambda: stored_bytes(PROMPT))() == []


@pytest.mark.parametrize("where", ["key", "alias"])
async def test_a_key_or_an_alias_has_its_requests_kept_sealed(
    opener: Opener, scripted: ScriptedUpstream, where: str
) -> None:
    scripted.default = json_answer(golden.COMPLETION)
    async with opener(**{where: 100}) as door:
        async with door.http() as http:
            answer = await http.post("/chat/completions", json=ASK)
        [row] = await kept(1)
        assert row.id == answer.headers["x-request-id"]
        assert (row.key_name, row.alias, row.outcome, row.truncated) == ("app", "fast", "ok", False)
        asked, answered = await texts(row)
        assert PROMPT in asked
        assert ANSWER in answered
        assert vault.is_sealed(row.request)
        assert vault.is_sealed(row.response)
        assert await sync_to_async(lambda: stored_bytes(PROMPT))() == []
        assert await sync_to_async(lambda: stored_bytes(ANSWER))() == []


def stored_bytes(text: str) -> list[str]:
    """The columns of any table in which the text stands."""
    found = []
    with connection.cursor() as cursor:
        for table in connection.introspection.table_names():
            cursor.execute(f'SELECT * FROM "{table}"')
            names = [column[0] for column in cursor.description]
            for row in cursor.fetchall():
                found += [f"{table}.{name}" for name, value in zip(names, row, strict=True) if text in str(value)]
    return found


async def test_a_stream_is_kept_as_the_text_that_it_adds_up_to(opener: Opener, scripted: ScriptedUpstream) -> None:
    scripted.default = sse(*golden.chunks("Write to an", "na@exam", "ple.org"))
    async with opener(alias=100) as door:
        async with door.http() as http:
            answer = await http.post("/chat/completions", json=STREAM)
        assert b"ple.org" in answer.content
        [row] = await kept(1)
        assert '"0.content":"Write to [email]"' in (await texts(row))[1]
        assert row.redactions == 1
        assert row.response_bytes == len(answer.content)


async def test_what_the_client_had_when_it_left_is_kept(opener: Opener, scripted: ScriptedUpstream) -> None:
    scripted.default = sse(*golden.chunks("One", " two", " three"), gap=0.3)
    async with opener(alias=100) as door:
        async with door.http() as http, http.stream("POST", "/chat/completions", json=STREAM) as answer:
            async for data in answer.aiter_bytes():
                if b"One" in data:
                    break
        [row] = await kept(1)
        assert row.outcome == "client_cancelled"
        assert "One" in (await texts(row))[1]
        assert "three" not in (await texts(row))[1]


async def test_a_providers_words_of_refusal_are_kept_with_the_payload_and_not_in_the_log(
    opener: Opener, scripted: ScriptedUpstream, capfd: pytest.CaptureFixture[str]
) -> None:
    scripted.default = json_answer({"error": {"message": f"You said {PROMPT}"}}, status=400)
    async with opener(alias=100) as door:
        async with door.http() as http:
            for body in (ASK, STREAM):
                assert (await http.post("/chat/completions", json=body)).status_code == 400
        for row in await kept(2):
            assert f"You said {PROMPT}" in (await texts(row))[1]
    log = capfd.readouterr().err
    assert "upstream_refused" in log
    assert PROMPT not in log


@override_settings(GATEWAY_CAPTURE_PATTERNS=[r"canary-\w+"])
async def test_own_patterns_are_taken_out(opener: Opener, scripted: ScriptedUpstream) -> None:
    scripted.default = json_answer(golden.COMPLETION)
    async with opener(alias=100) as door:
        async with door.http() as http:
            await http.post("/chat/completions", json={**ASK, "user": "anna@example.org"})
        [row] = await kept(1)
        asked = (await texts(row))[0]
        assert "[redacted]" in asked
        assert "canary" not in asked
        assert '"user":"[email]"' in asked


@override_settings(GATEWAY_CAPTURE_BYTES=100)
async def test_a_body_is_cut_at_the_cap(opener: Opener, scripted: ScriptedUpstream) -> None:
    scripted.default = json_answer(golden.COMPLETION)
    async with opener(alias=100) as door:
        async with door.http() as http:
            answer = await http.post("/chat/completions", json={**ASK, "metadata": {"long": "x" * 10_000}})
        [row] = await kept(1)
        assert row.truncated
        assert row.request_bytes > 10_000
        assert row.response_bytes == len(answer.content)
        assert all(len(text) <= 100 for text in await texts(row))


async def test_a_sample_is_drawn_and_the_higher_share_counts(
    opener: Opener, scripted: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted.default = json_answer(golden.COMPLETION)
    drawn = iter([0.1, 0.24, 0.26, 0.9])
    monkeypatch.setattr(random, "random", lambda: next(drawn))
    async with opener(alias=5, key=25) as door:
        async with door.http() as http:
            for _ in range(4):
                await http.post("/chat/completions", json=ASK)
        assert len(await kept(3, within=1.5)) == 2


@override_settings(GATEWAY_CAPTURE=False)
async def test_one_setting_turns_all_of_it_off(opener: Opener, scripted: ScriptedUpstream) -> None:
    scripted.default = json_answer(golden.COMPLETION)
    async with opener(alias=100, key=100) as door:
        async with door.http() as http:
            await http.post("/chat/completions", json=ASK)
        assert (await door.engine.running()).captures is None
        assert await kept(1, within=1.5) == []


async def test_the_queue_has_a_bound_and_gives_its_memory_back(
    opener: Opener, scripted: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(capturing, "QUEUE_BYTES", 3000)
    scripted.default = json_answer(golden.COMPLETION)
    async with opener(alias=100) as door:
        captures = door.engine.observer.captures
        assert captures is not None
        captures.memory.take(1)
        before = captures.memory.held
        async with door.http() as http:
            await asyncio.gather(*(http.post("/chat/completions", json=ASK) for _ in range(20)))
        assert captures.dropped > 0
        rows = await kept(20, within=2.5)
        assert len(rows) == 20 - captures.dropped
        assert captures.held == 0
        assert captures.memory.held == before


async def test_payloads_wait_while_the_database_is_away(
    opener: Opener, scripted: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    from django.db import OperationalError

    scripted.default = json_answer(golden.COMPLETION)
    real, times = capture.store, iter(range(2))

    def store(*args: Any) -> None:
        if next(times, None) is not None:
            raise OperationalError("away")
        real(*args)

    monkeypatch.setattr(capture, "store", store)
    async with opener(alias=100) as door:
        async with door.http() as http:
            assert (await http.post("/chat/completions", json=ASK)).status_code == 200
        assert len(await kept(1, within=6)) == 1


# --- the days that they are kept -------------------------------------------------------------------------------------


def payload(request_id: str, **more: Any) -> CapturedPayload:
    now = timezone.now()
    row = CapturedPayload(id=request_id, at=now, expires_at=now + timedelta(days=7), **more)
    row.request = capture._seal(row, "asked")
    row.save()
    return row


@pytest.mark.django_db
def test_what_has_expired_is_deleted_and_who_looked_stays_on_record() -> None:
    old, young = payload("req_old"), payload("req_young")
    capture.opened(old, viewer="anna", address="192.0.2.1")
    assert sum(capture.prune(timezone.now() + timedelta(days=6, hours=23))) == 0
    CapturedPayload.objects.filter(pk=old.pk).update(expires_at=timezone.now())
    assert sum(capture.prune()) == 1
    assert list(CapturedPayload.objects.all()) == [young]
    assert PayloadView.objects.get().payload_id == "req_old"
    assert sum(capture.prune(every=True)) == 1


async def test_the_server_prunes_by_itself(opener: Opener, scripted: ScriptedUpstream) -> None:
    def expired() -> None:
        payload("req_old")
        CapturedPayload.objects.update(expires_at=timezone.now())

    await sync_to_async(expired)()
    async with opener():
        ends = asyncio.get_running_loop().time() + 5
        while await kept(1, within=0):
            assert asyncio.get_running_loop().time() < ends
            await asyncio.sleep(0.05)


@pytest.mark.django_db
def test_a_payload_opens_in_its_own_row_only() -> None:
    one, two = payload("req_one"), payload("req_two")
    two.request = one.request
    with pytest.raises(vault.DoesNotDecrypt):
        capture.opened(two, viewer="anna", address="")


@pytest.mark.django_db
def test_a_new_encryption_key_takes_payloads_along(settings: Any) -> None:
    row = payload("req_one")
    settings.GATEWAY_ENCRYPTION_KEYS = {"k2": b"2" * 16 + b"x" * 16, **settings.GATEWAY_ENCRYPTION_KEYS}
    assert rewrap() >= 1
    row.refresh_from_db()
    assert vault.key_id_of(row.request) == "k2"
    assert capture.opened(row, viewer="anna", address="")[0] == "asked"
    assert status().closed == []


@pytest.mark.django_db
@pytest.mark.parametrize("model", [ClientKey, ModelAlias])
def test_more_than_all_of_the_requests_cannot_be_asked_for(model: Any) -> None:
    from django.core.exceptions import ValidationError

    row = house.client_key()[0] if model is ClientKey else house.alias("fast")
    row.capture = 101
    with pytest.raises(ValidationError) as raised:
        row.full_clean()
    assert "capture" in raised.value.message_dict


@pytest.mark.django_db
def test_what_an_erased_end_user_said_goes_with_the_name() -> None:
    for name in ("anna", "bob"):
        payload(f"req_{name}")
        UsageRecord.objects.create(id=f"req_{name}", started_at=timezone.now(), end_user=name)
    erasure.erase("anna", [])
    assert [row.id for row in CapturedPayload.objects.all()] == ["req_bob"]
