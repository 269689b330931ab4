"""What a change of keys and secrets looks like from outside, while requests are under way."""

import asyncio
import time
from datetime import timedelta

import httpx
from asgiref.sync import sync_to_async
from django.db import connections
from django.utils import timezone
from pytest_django import Settings

from providers import repepper, rotation
from providers.models import ClientKey, Team
from tests.gateway import golden
from tests.gateway.house import Door, eventually
from tests.scripted import HANG, ScriptedUpstream, json_answer, sse

BODY = {"model": "fast", "messages": [{"role": "user", "content": "Hi"}]}


def rotate(*, compromised: bool = False) -> str:
    """The successor's token, of the only key there is."""
    done = rotation.rotate(
        ClientKey.objects.get().id, overlap=timedelta(hours=1), compromised=compromised, show=lambda _: None
    )
    connections.close_all()
    assert done.token is not None
    return done.token


async def ask(door: Door, key: str) -> httpx.Response:
    async with door.http() as http:
        return await http.post("/chat/completions", json=BODY, headers={"authorization": f"Bearer {key}"})


async def status_within(door: Door, key: str, status: int, seconds: float) -> float:
    """How long it took until the key's requests had that status."""
    begun = time.monotonic()
    while (await ask(door, key)).status_code != status:
        assert time.monotonic() - begun < seconds
        await asyncio.sleep(0.05)
    return time.monotonic() - begun


async def test_s17_both_keys_work_during_the_overlap_and_are_one_principal(
    door: Door, scripted: ScriptedUpstream
) -> None:
    scripted.default = json_answer(golden.COMPLETION)
    assert (await ask(door, door.key)).status_code == 200
    new = await sync_to_async(rotate)()
    assert [(await ask(door, key)).status_code for key in (new, door.key)] == [200, 200]
    cards = [(await door.engine.desk.authenticate(token)).key for token in (new, door.key)]
    assert cards[0].principal == cards[1].principal == cards[1].id


async def test_s16_a_compromised_key_is_refused_and_its_streams_are_cut_within_5_seconds(
    door: Door, scripted: ScriptedUpstream
) -> None:
    scripted.default = [*sse(golden.chunks("a")[0], done=False)[:-1], HANG]
    async with (
        door.http(timeout=10) as http,
        http.stream("POST", "/chat/completions", json=BODY | {"stream": True}) as reply,
    ):
        parts = reply.aiter_bytes()
        assert b'"delta"' in await anext(parts)
        other = await sync_to_async(rotate)(compromised=True)
        begun = time.monotonic()
        rest = b"".join([part async for part in parts])
    assert time.monotonic() - begun < 5
    assert b'"code":"stream_interrupted"' in rest
    assert b"has been revoked" in rest
    assert b"[DONE]" not in rest
    assert (await ask(door, door.key)).status_code == 401
    scripted.default = json_answer(golden.COMPLETION)
    assert (await ask(door, other)).status_code == 200
    assert [row.outcome for row in await door.rows(2)] == ["key_compromised", "ok"]
    assert not scripted.connections[0].is_open


async def test_s16_a_compromised_key_gets_no_answer_that_was_under_way_either(
    door: Door, scripted: ScriptedUpstream
) -> None:
    scripted.default = [HANG]
    waiting = asyncio.create_task(ask(door, door.key))
    assert await eventually(lambda: bool(scripted.requests))
    await sync_to_async(rotate)(compromised=True)
    answer = await asyncio.wait_for(waiting, 5)
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")
    assert len(scripted.requests) == 1
    [row] = await door.rows(1)  # the provider may have done the work, and charges for it
    assert (row.outcome, row.usage_source, row.tokens_in > 0) == ("key_compromised", "estimated", True)


async def test_s16_other_keys_streams_go_on(door: Door, scripted: ScriptedUpstream) -> None:
    scripted.default = sse(*golden.chunks("a", "b", "c"), gap=0.7)
    _, other = await sync_to_async(lambda: ClientKey.objects.mint("other"))()
    running = asyncio.create_task(ask_stream(door, other))
    assert await eventually(lambda: bool(scripted.requests))

    def compromise() -> None:
        ClientKey.objects.exclude(name="other").update(compromised_at=timezone.now())
        connections.close_all()

    await sync_to_async(compromise)()
    await status_within(door, door.key, 401, 2.0)
    assert (await running).endswith(b"data: [DONE]\n\n")


async def ask_stream(door: Door, key: str) -> bytes:
    headers = {"authorization": f"Bearer {key}"}
    async with door.http(timeout=10) as http:
        return (await http.post("/chat/completions", json=BODY | {"stream": True}, headers=headers)).content


async def test_s16_a_disabled_team_is_refused_within_2_seconds_and_comes_back(
    door: Door, scripted: ScriptedUpstream
) -> None:
    scripted.default = json_answer(golden.COMPLETION)

    def team(enabled: bool) -> None:
        ClientKey.objects.get().team or ClientKey.objects.update(team=Team.objects.create(name="web"))
        Team.objects.update(enabled=enabled)
        connections.close_all()

    await sync_to_async(team)(True)
    assert (await ask(door, door.key)).status_code == 200
    await sync_to_async(team)(False)
    assert await status_within(door, door.key, 401, 2.0) < 2.0
    await sync_to_async(team)(True)
    await status_within(door, door.key, 200, 2.0)


async def test_r50_each_use_moves_its_key_to_the_new_pepper_and_the_rest_expires(
    door: Door, scripted: ScriptedUpstream, settings: Settings
) -> None:
    scripted.default = json_answer(golden.COMPLETION)

    def more() -> list[str]:
        foreign = "brought-from-elsewhere-0123456789"
        ClientKey.objects.adopt(foreign, name="foreign")
        return [door.key, foreign, ClientKey.objects.mint("unused")[1]]

    used, foreign, unused = await sync_to_async(more)()
    old_pepper = next(iter(settings.GATEWAY_KEY_PEPPERS))
    settings.GATEWAY_KEY_PEPPERS = {"p9": bytes(range(1, 33)), **settings.GATEWAY_KEY_PEPPERS}
    await status_within(door, foreign, 200, 2.0)
    assert (await ask(door, used)).status_code == 200
    assert await peppers() == {"app": old_pepper, "foreign": old_pepper, "unused": old_pepper}

    await sync_to_async(repepper.set_deadline)(timezone.now() + timedelta(seconds=4))
    deadline = time.monotonic() + 3
    while time.monotonic() < deadline and list((await peppers()).values()).count("p9") < 2:
        assert [(await ask(door, key)).status_code for key in (used, foreign)] == [200, 200]
        await asyncio.sleep(0.05)
    assert await peppers() == {"app": "p9", "foreign": "p9", "unused": old_pepper}
    await asyncio.sleep(4.1 - (3 - (deadline - time.monotonic())))
    assert [(await ask(door, key)).status_code for key in (used, foreign, unused)] == [200, 200, 401]


async def peppers() -> dict[str, str]:
    return await sync_to_async(lambda: dict(ClientKey.objects.values_list("name", "pepper_id")))()
