import random

import pytest

from gateway.limits import gcra
from gateway.limits.claims import Charge, Claim, Slot
from gateway.limits.memory import MemoryLimiter

REQUESTS = gcra.rate(600, 60)
TOKENS = gcra.rate(6000, 6000)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def charge(bucket: str = "key:k:r", cost: float = 1, rate: gcra.Rate = REQUESTS, kind: str = "requests") -> Charge:
    return Charge(bucket, rate, cost, kind, "key")


def take(limiter: MemoryLimiter, *charges: Charge) -> bool:
    return limiter.take_now(Claim("req", charges=list(charges))).refused is None


def test_what_a_later_bucket_refuses_no_earlier_one_has_paid_for() -> None:
    limiter = MemoryLimiter(Clock())
    small = gcra.rate(60, 1)
    for _ in range(10):
        take(limiter, charge("team"), charge("user", rate=small))
    assert limiter.look(charge("team")).remaining == 59


def test_a_place_is_taken_until_it_is_given_back() -> None:
    limiter = MemoryLimiter(Clock())
    claims = [Claim(f"req_{n}", [Slot("key:k", 2, "key")]) for n in range(3)]
    assert [limiter.take_now(one).refused is None for one in claims] == [True, True, False]
    limiter.release(claims[0])
    assert limiter.take_now(claims[2]).refused is None
    for one in claims[1:]:
        limiter.release(one)
    assert limiter.used() == {}


def test_r42_in_memory_no_minute_lets_more_than_the_limit_and_a_burst_pass() -> None:
    clock = Clock()
    limiter, passed = MemoryLimiter(clock), []
    for _ in range(10_000):
        clock.now += 0.012
        if take(limiter, charge()):
            passed.append(clock.now)
    assert 1258 <= len(passed) <= 1260
    for first, begin in enumerate(passed):
        assert sum(1 for at in passed[first : first + 700] if at - begin < 60) <= 660


@pytest.mark.parametrize("factor", [10.0, 0.1])
def test_r43_a_bucket_that_is_settled_holds_what_was_used_and_no_more_is_overdrawn_than_one_call(factor: float) -> None:
    clock, draw = Clock(), random.Random(43)
    limiter, used, refused = MemoryLimiter(clock), 0.0, 0
    exact = 1000.0
    for _ in range(1000):
        actual = float(draw.randint(50, 150))
        taken = charge("key:k:t", min(actual * factor, TOKENS.burst), TOKENS, "tokens")
        if not take(limiter, taken):
            refused += 1
            clock.now += 0.25
            continue
        exact = max(exact, clock.now)
        limiter.correct(taken, actual)
        exact += actual * TOKENS.interval
        used += actual
        debt = limiter.debts().get("key:k:t", 0.0)
        assert debt == pytest.approx(max(exact - clock.now, 0.0), abs=1e-6)
        assert debt <= TOKENS.tolerance + 150 * TOKENS.interval
        clock.now += 0.05
    assert refused > 100
    assert used > 10_000


def test_a_great_charge_that_is_taken_back_late_gives_no_second_minute() -> None:
    clock = Clock()
    limiter = MemoryLimiter(clock)
    large = charge("key:k:t", 6000, TOKENS, "tokens")
    assert take(limiter, large)
    clock.now += 60
    assert take(limiter, charge("key:k:t", 6000, TOKENS, "tokens"))
    limiter.correct(large, 0)
    assert not take(limiter, charge("key:k:t", 10, TOKENS, "tokens"))


def test_a_thousand_end_users_each_have_a_bucket_and_a_flood_of_names_is_forgotten_oldest_first() -> None:
    limiter = MemoryLimiter(Clock(), capacity=1001)
    one = gcra.rate(60, 1)
    users = [charge(f"user:k:{n}", rate=one) for n in range(1000)]
    assert all(take(limiter, user) for user in users)
    assert not any(take(limiter, user) for user in users)
    wide = gcra.rate(60_000, 10_000)
    for n in range(10_000):
        assert take(limiter, charge("key:k:r", rate=wide), charge(f"user:k:flood{n}", rate=one))
    assert len(limiter.debts()) == 1001
    assert limiter.look(charge("key:k:r", rate=wide)).remaining == 0


def test_what_one_limiter_owes_another_can_take_over() -> None:
    clock = Clock()
    limiter, other = MemoryLimiter(clock), MemoryLimiter(clock)
    take(limiter, charge(cost=45))
    other.adopt(limiter.debts())
    assert other.look(charge()).remaining == 15
