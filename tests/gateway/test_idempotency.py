"""Idempotency-Key: one request, one answer, however often it is asked for."""

import asyncio
from datetime import timedelta
from typing import Any

import httpx
import pytest
from asgiref.sync import sync_to_async
from django.core.management import call_command
from django.utils import timezone
from pytest_django import Settings

from gateway import idempotency
from gateway.models import KeyedRequest
from providers import vault
from tests.gateway import golden
from tests.gateway.house import Door, eventually
from tests.gateway.test_ephemeral_tokens import token_of
from tests.gateway.test_pages import APP, BODY, made, post
from tests.scripted import HANG, Pause, ScriptedUpstream, json_answer, sse

SECRET = "only for who has asked"


def answer(text: str = SECRET) -> list[Any]:
    message = {"role": "assistant", "content": text}
    return json_answer({**golden.COMPLETION, "choices": [{"index": 0, "message": message, "finish_reason": "stop"}]})


async def ask(door: Door, key: str = "k1", token: str = "", **options: Any) -> httpx.Response:
    return await post(door, token or door.key, None, headers={"idempotency-key": key}, **options)


def refusal(found: httpx.Response) -> tuple[int, str]:
    return found.status_code, found.json()["error"]["code"]


async def stored() -> list[KeyedRequest]:
    return await sync_to_async(lambda: list(KeyedRequest.objects.all()))()


async def test_r45_the_same_key_and_body_gives_the_same_answer_and_one_call(
    door: Door, scripted: ScriptedUpstream
) -> None:
    scripted.enqueue(answer())
    first, second = await ask(door), await ask(door)
    assert (first.status_code, second.status_code) == (200, 200)
    assert first.content == second.content
    assert first.headers["content-type"] == second.headers["content-type"]
    assert "idempotent-replayed" not in first.headers
    assert second.headers["idempotent-replayed"] == "true"
    assert second.headers["x-gateway-original-request"] == first.headers["x-request-id"]
    assert len(scripted.requests) == 1
    assert len(await door.rows(2, within=0.5)) == 1


async def test_r45_another_body_under_the_same_key_is_refused(door: Door, scripted: ScriptedUpstream) -> None:
    scripted.default = answer()
    await ask(door)
    found = await ask(door, json={**BODY, "n": 2})
    assert refusal(found) == (400, "idempotency_mismatch")
    assert found.json()["error"]["param"] == "idempotency-key"
    assert len(scripted.requests) == 1


async def test_r45_an_equal_request_meanwhile_is_told_to_wait(door: Door, scripted: ScriptedUpstream) -> None:
    scripted.enqueue([Pause(0.5), *answer()])
    running = asyncio.ensure_future(ask(door))
    assert await eventually(lambda: bool(scripted.requests))
    found = await ask(door)
    assert refusal(found) == (409, "idempotency_conflict")
    assert (found.headers["retry-after"], found.headers["retry-after-ms"]) == ("1", "500")
    assert (await running).status_code == 200
    assert (await ask(door)).content == (await running).content
    assert len(scripted.requests) == 1


async def test_the_official_library_waits_for_the_answer_by_itself(door: Door, scripted: ScriptedUpstream) -> None:
    scripted.enqueue([Pause(0.4), *answer()])
    async with door.client() as client:
        create = client.chat.completions.create
        same = {"extra_headers": {"idempotency-key": "k2"}}
        asked = [create(model="fast", messages=[{"role": "user", "content": "a"}], **same) for _ in range(3)]  # type: ignore[call-overload]
        found = await asyncio.gather(*asked)
    assert {answer.choices[0].message.content for answer in found} == {SECRET}
    assert len(scripted.requests) == 1


async def test_r45_after_24_hours_the_key_is_new(door: Door, scripted: ScriptedUpstream) -> None:
    scripted.default = answer()
    await ask(door)
    [row] = await stored()
    assert timedelta(hours=23, minutes=59) < row.expires_at - timezone.now() <= timedelta(hours=24)
    past = timezone.now() - timedelta(seconds=1)
    await sync_to_async(lambda: KeyedRequest.objects.update(expires_at=past))()
    assert "idempotent-replayed" not in (await ask(door)).headers
    assert len(scripted.requests) == 2


async def test_a_stream_is_given_again_whole(door: Door, scripted: ScriptedUpstream) -> None:
    scripted.enqueue(sse(*golden.chunks("a", "b")))
    body = {**BODY, "stream": True}
    first, second = await ask(door, json=body), await ask(door, json=body)
    assert first.content == second.content
    assert first.content.endswith(b"data: [DONE]\n\n")
    assert second.headers["content-type"] == first.headers["content-type"]
    assert len(scripted.requests) == 1


@pytest.mark.parametrize(
    ("script", "body", "status"),
    [
        (json_answer({"error": {"message": "no", "type": "server_error"}}, 500), BODY, 500),
        (json_answer({"error": {"message": "no", "type": "invalid_request_error"}}, 400), BODY, 400),
        (sse(golden.chunk({"content": "a"}), done=False), {**BODY, "stream": True}, 200),
    ],
)
async def test_what_ended_with_an_error_may_be_tried_again(
    door: Door, scripted: ScriptedUpstream, script: Any, body: Any, status: int
) -> None:
    scripted.enqueue(script)
    assert (await ask(door, json=body)).status_code == status
    assert await stored() == []
    scripted.enqueue(sse(*golden.chunks("a")) if "stream" in body else answer())
    assert (await ask(door, json=body)).status_code == 200


async def test_a_client_that_leaves_finds_its_answer_when_it_asks_again(door: Door, scripted: ScriptedUpstream) -> None:
    for number, script in enumerate(([Pause(0.6), *answer()], sse(*golden.chunks("a", "b"), gap=0.2))):
        scripted.enqueue(script)
        body = {**BODY, "stream": bool(number)}
        asked = asyncio.ensure_future(ask(door, f"leave-{number}", json=body))
        await asyncio.sleep(0.3)
        asked.cancel()
        assert [row.done for row in await stored()] == [False]
        async with asyncio.timeout(5):
            while not any(row.done for row in await stored()):
                await asyncio.sleep(0.05)
        again = await ask(door, f"leave-{number}", json=body)
        assert (again.status_code, again.headers["idempotent-replayed"]) == (200, "true")
        if number:
            assert again.content.endswith(b"data: [DONE]\n\n")
        await sync_to_async(KeyedRequest.objects.all().delete)()
    assert len(scripted.requests) == 2


async def test_another_holder_and_another_end_user_have_keys_of_their_own(
    door: Door, scripted: ScriptedUpstream
) -> None:
    scripted.default = answer()
    anna, bob = await token_of(door), await token_of(door, end_user="bob")
    for token in (door.key, anna, bob):
        assert "idempotent-replayed" not in (await ask(door, token=token)).headers
    assert (await ask(door, token=bob)).headers["idempotent-replayed"] == "true"
    assert len(scripted.requests) == 3


async def test_what_is_kept_cannot_be_read_in_the_database_and_goes_after_a_day(
    door: Door, scripted: ScriptedUpstream
) -> None:
    scripted.default = answer()
    await ask(door)
    [row] = await stored()
    assert row.answer.startswith("v1.")
    assert SECRET not in str(row.__dict__)
    await sync_to_async(call_command)("rotate_encryption_key", "--verify")
    past = timezone.now() - timedelta(seconds=1)
    await sync_to_async(lambda: KeyedRequest.objects.update(expires_at=past))()
    door.engine.process.keyed_pruned_at = float("-inf")  # type: ignore[union-attr]
    await door.engine._keep_keyed()
    assert await stored() == []


async def test_an_answer_that_is_too_large_is_not_asked_for_twice(
    door: Door, scripted: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(idempotency, "MAX_BYTES", 100)
    scripted.default = answer()
    first = await ask(door)
    assert first.status_code == 200
    found = await ask(door)
    assert refusal(found) == (409, "idempotency_conflict")
    assert first.headers["x-request-id"] in found.text
    assert found.headers["x-should-retry"] == "false"
    assert len(scripted.requests) == 1


async def test_what_a_dead_process_was_at_work_on_is_taken_over(
    door: Door, scripted: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted.enqueue([HANG], answer())
    running = asyncio.ensure_future(ask(door))
    assert await eventually(lambda: bool(scripted.requests))
    await door.engine._keep_keyed()
    assert refusal(await ask(door)) == (409, "idempotency_conflict")
    past = timezone.now() - timedelta(seconds=1)
    await sync_to_async(lambda: KeyedRequest.objects.update(alive_until=past))()
    assert (await ask(door)).status_code == 200
    running.cancel()


@pytest.mark.parametrize("key", ["k" * 256])
async def test_a_key_that_is_too_long_is_refused(door: Door, key: str) -> None:
    found = await ask(door, key)
    assert (found.status_code, found.json()["error"]["param"]) == (400, "idempotency-key")


async def test_a_publishable_key_cannot_keep_answers_here(door: Door, scripted: ScriptedUpstream) -> None:
    found = await post(door, await made(), APP, headers={"idempotency-key": "a"})
    assert (found.status_code, found.json()["error"]["param"]) == (400, "idempotency-key")
    assert scripted.requests == []


async def test_an_answer_that_no_key_opens_any_more_is_told_so_and_not_asked_for_again(
    door: Door, scripted: ScriptedUpstream, settings: Settings
) -> None:
    scripted.default = answer()
    first = await ask(door)
    settings.GATEWAY_ENCRYPTION_KEYS = {"other": bytes(range(32))}
    found = await ask(door)
    assert refusal(found) == (409, "idempotency_conflict")
    assert found.headers["x-should-retry"] == "false"
    assert first.headers["x-request-id"] in found.json()["error"]["message"]
    assert len(scripted.requests) == 1


async def test_an_answer_waits_for_a_key_service_that_is_away(
    door: Door, scripted: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted.default = answer()
    first = await ask(door)

    def away(*_: Any, **__: Any) -> Any:
        raise vault.VaultError("cannot be unwrapped")

    with monkeypatch.context() as patch:
        patch.setattr(vault, "unseal", away)
        found = await ask(door)
    assert (found.status_code, found.headers["retry-after"]) == (503, "5")
    assert (await ask(door)).content == first.content
    assert len(scripted.requests) == 1


async def test_what_is_kept_of_an_answer_is_on_the_memory_account_and_makes_way_there(
    door: Door, scripted: ScriptedUpstream
) -> None:
    scripted.default = answer("x" * 20_000)
    process = door.engine.process
    assert process is not None
    process.memory.cap = 30_000  # the body of the answer is held once, and not once more
    first = await ask(door)
    assert SECRET not in first.text
    assert first.json()["choices"][0]["message"]["content"] == "x" * 20_000
    assert process.memory.held == 0
    found = await ask(door)
    assert refusal(found) == (409, "idempotency_conflict")
    process.memory.cap = 100_000
    assert (await ask(door, "k2")).content == (await ask(door, "k2")).content
    assert process.memory.held == 0
