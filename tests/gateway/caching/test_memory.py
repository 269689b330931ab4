"""The memory of one process for answers: bounded, on its account, and the first to give way."""

import time

import pytest

from gateway.caching.kept import Facts, Kept
from gateway.caching.memory import MemoryStore
from gateway.errors import Overloaded
from gateway.process import Memory


def answer(size: int) -> Kept:
    return Kept(Facts(time.time(), "plain"), b"x" * size)


def name(number: int) -> bytes:
    return number.to_bytes(32, "big")


def test_ten_gigabytes_of_distinct_answers_are_never_more_than_the_capacity() -> None:
    account = Memory()
    store = MemoryStore(account, 1_000_000)
    big = answer(100_000)
    most = 0
    for number in range(100_000):
        store.put(name(number), big)
        most = max(most, store.held)
    assert most <= 1_000_000
    assert store.held == account.held
    assert len(store) == 9
    assert store.get(name(0)) is None
    assert store.get(name(99_999)) is big


def test_the_least_recently_used_goes_first_and_too_large_ones_are_not_taken() -> None:
    store = MemoryStore(Memory(), 10_000)
    for number in range(4):
        store.put(name(number), answer(1900))
    assert store.get(name(0)) is not None
    store.put(name(4), answer(1900))
    assert [store.get(name(number)) is not None for number in range(5)] == [True, False, True, True, True]
    store.put(name(5), answer(2400))
    assert store.get(name(5)) is None
    assert len(store) == 4


def test_answers_give_way_before_a_request_is_refused() -> None:
    account = Memory(cap=10_000)
    store = MemoryStore(account, 8_000)
    for number in range(5):
        store.put(name(number), answer(1000))
    account.take(8_000)
    assert account.held <= 10_000
    assert len(store) == 1
    with pytest.raises(Overloaded):
        account.take(2_001)
    assert (len(store), account.held) == (0, 8_000)
    account.take(2_000)
    store.put(name(9), answer(1000))
    assert store.get(name(9)) is None
