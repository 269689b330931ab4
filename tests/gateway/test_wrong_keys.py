"""Guessing keys: one address has so many guesses, and those who know a key do not suffer from it."""

import pytest
from asgiref.sync import sync_to_async
from django.db import DatabaseError

from gateway import wrongkeys
from gateway.errors import RateLimited, Unauthorized
from gateway.wrongkeys import WrongKeys
from providers import keyring, keys
from proxysite.models import Counter
from tests.gateway import golden
from tests.gateway.house import Door, eventually
from tests.scripted import ScriptedUpstream, json_answer

BODY = {"model": "fast", "messages": []}


@pytest.fixture(autouse=True)
def _few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wrongkeys, "RATE", "5/15m")


async def statuses(door: Door, tokens: list[str]) -> list[int]:
    found = []
    async with door.http() as http:
        for token in tokens:
            answer = await http.post("/chat/completions", json=BODY, headers={"authorization": f"Bearer {token}"})
            found.append(answer.status_code)
            if answer.status_code == 429:
                assert answer.json()["error"]["code"] == "rate_limit_exceeded"
                assert 0 < int(answer.headers["retry-after"]) <= 900
    return found


def fresh(count: int) -> list[str]:
    return [keys.mint().token for _ in range(count)]


async def test_s11_wrong_keys_are_refused_without_a_look_up_after_so_many(
    door: Door, scripted: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted.default = json_answer(golden.COMPLETION)
    assert await statuses(door, [door.key]) == [200]
    assert await statuses(door, fresh(6)) == [401] * 6
    looked_up: list[str] = []
    monkeypatch.setattr(keyring, "load", looked_up.append)
    assert await statuses(door, fresh(3)) == [429] * 3
    assert looked_up == []
    assert await statuses(door, [door.key]) == [200]


async def test_s11_damaged_keys_of_our_form_and_a_repeated_one_are_not_counted(door: Door) -> None:
    [once] = fresh(1)
    assert await statuses(door, [once] * 10 + ["sk-gw-junk"] * 10) == [401] * 20
    assert await sync_to_async(lambda: [row.value for row in Counter.objects.all()])() == [1]


async def test_guesses_at_keys_from_elsewhere_are_counted_too(door: Door) -> None:
    async def counted(number: int) -> bool:
        return (await sync_to_async(lambda: [row.value for row in Counter.objects.all()])()) == [number]

    for number in range(1, 7):
        assert await statuses(door, [f"some-key-from-elsewhere-{number}"]) == [401]
        while not await counted(number):
            pass
    assert await eventually(lambda: bool(door.engine.desk.wrong_keys._until))
    assert await statuses(door, ["some-key-from-elsewhere-7"]) == [429]


async def test_s21_another_address_has_its_own_guesses(door: Door) -> None:
    async def guess(address: str) -> str:
        try:
            await door.engine.desk.authenticate(keys.mint().token, lambda: address)
        except (Unauthorized, RateLimited) as exc:
            return type(exc).__name__
        return "admitted"

    assert [await guess(f"2001:db8::{n:x}") for n in range(8)] == ["Unauthorized"] * 6 + ["RateLimited"] * 2
    assert await guess("2001:db8:0:1::1") == "Unauthorized"


def test_the_memory_of_addresses_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wrongkeys, "MAX_ADDRESSES", 3)
    monkeypatch.setattr(wrongkeys, "get_usage", lambda *_, **__: {"should_limit": True, "time_left": 60})
    wrong = WrongKeys(wall=lambda: 1000.0)
    for n in range(10):
        wrong.count(f"192.0.2.{n}")
    assert list(wrong._until) == ["192.0.2.7", "192.0.2.8", "192.0.2.9"]


async def test_without_a_database_a_wrong_key_is_still_a_wrong_key(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise DatabaseError

    monkeypatch.setattr(wrongkeys, "get_usage", fails)
    assert await statuses(door, [*fresh(7), "some-key-from-elsewhere"]) == [401] * 8
