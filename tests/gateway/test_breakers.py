"""Targets that are out of order: when a breaker opens, who is tried then, and what a retry may cost."""

import pytest

from gateway.errors import BadRequest, Overloaded, UpstreamError, UpstreamRefused, UpstreamTimeout, UpstreamUnreachable
from gateway.forwarding import retries
from gateway.routing.breakers import Breakers, Unavailable
from providers.secret import Secret
from providers.targets import CredentialCard, ProviderCard, Target

ONE, TWO = CredentialCard("c1", "one", Secret("token-one")), CredentialCard("c2", "two", Secret("token-two"))
LAB = ProviderCard("p1", "lab", "openai", credentials=(ONE, TWO))
OTHER = ProviderCard("p2", "other", "openai", credentials=(CredentialCard("c3", "main", Secret("token-3")),))
A, B = Target(LAB, "m", ONE), Target(OTHER, "m", OTHER.credentials[0])


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breakers(clock: Clock) -> Breakers:
    return Breakers(clock)


def refused(status: int, **fields: str) -> UpstreamRefused:
    headers = {name.replace("_", "-"): value for name, value in fields.items()}
    return UpstreamRefused("no", status=status, headers=headers)


NO_CONNECTION = UpstreamUnreachable("refused", sent=False)


def tried(breakers: Breakers, *targets: Target) -> list[str]:
    """The names of the credentials, in the order in which they would be tried."""
    found = breakers.usable(targets) if breakers.open else targets
    return [target.credential.name for target in found if target.credential]


def fail(breakers: Breakers, error: UpstreamError, times: int, *targets: Target) -> None:
    for target in targets:
        for _ in range(times):
            breakers.failed(target, error, 0.1)


def test_five_connections_in_a_row_that_cannot_be_made_open_and_four_do_not(breakers: Breakers) -> None:
    fail(breakers, NO_CONNECTION, 4, A)
    breakers.answered(A, 0.1)
    fail(breakers, NO_CONNECTION, 4, A)
    assert not breakers.open
    fail(breakers, NO_CONNECTION, 1, A)
    assert tried(breakers, A, B) == ["two", "main"]


@pytest.mark.parametrize("error", [refused(500), refused(429), refused(408), UpstreamTimeout("slow", sent=True)])
def test_half_of_twenty_answers_that_are_failures_open(breakers: Breakers, error: UpstreamError) -> None:
    for _ in range(9):
        breakers.answered(A, 0.1)
        fail(breakers, error, 1, A)
    breakers.answered(A, 0.1)
    assert not breakers.open
    fail(breakers, error, 1, A)
    assert tried(breakers, A, B) == ["two", "main"]


def test_failures_of_more_than_thirty_seconds_ago_are_forgotten(breakers: Breakers, clock: Clock) -> None:
    fail(breakers, refused(500), 19, A)
    clock.now += 31
    fail(breakers, refused(500), 19, A)
    assert not breakers.open
    clock.now += 10
    fail(breakers, refused(500), 1, A)
    assert breakers.open


@pytest.mark.parametrize("status", [400, 404, 409, 413, 422])
def test_what_the_request_is_to_blame_for_never_opens(breakers: Breakers, status: int) -> None:
    fail(breakers, refused(status), 100, A)
    assert not breakers.open


def test_a_pool_that_is_full_is_no_failure_of_the_provider(breakers: Breakers) -> None:
    for error in (Overloaded("full"), BadRequest("no")):
        for _ in range(100):
            breakers.failed(A, error, 0.1)
    assert not breakers.open


def test_a_token_that_is_refused_is_passed_over_for_every_model_until_it_is_another(breakers: Breakers) -> None:
    fail(breakers, refused(401), 1, A)
    assert tried(breakers, Target(LAB, "another", ONE)) == ["two"]
    anew = CredentialCard("c1", "one", Secret("token-new"))
    replaced = ProviderCard("p1", "lab", "openai", credentials=(anew, TWO))
    assert tried(breakers, Target(replaced, "m", anew)) == ["one"]
    assert not breakers.open


def test_a_token_that_may_not_use_one_model_is_passed_over_for_that_model(breakers: Breakers) -> None:
    fail(breakers, refused(403), 1, A)
    assert tried(breakers, A) == ["two"]
    assert tried(breakers, Target(LAB, "another", ONE)) == ["one"]


def test_the_only_token_is_tried_though_it_is_refused_since_the_provider_says_so_at_once(breakers: Breakers) -> None:
    fail(breakers, refused(401), 1, B)
    assert tried(breakers, B) == ["main"]


def test_without_any_target_in_order_nobody_waits_and_one_request_is_a_trial(breakers: Breakers, clock: Clock) -> None:
    fail(breakers, NO_CONNECTION, 5, B)
    with pytest.raises(Unavailable) as caught:
        breakers.usable([B])
    assert (caught.value.status, caught.value.headers["retry-after"]) == (503, "8")
    clock.now += 7.5
    assert tried(breakers, B) == ["main"]
    breakers.begin(B)
    with pytest.raises(Unavailable):
        breakers.usable([B])
    clock.now += 7.5
    breakers.answered(B, 0.1)
    assert not breakers.open


def test_where_all_are_limited_the_one_that_refused_the_longest_ago_is_tried(breakers: Breakers, clock: Clock) -> None:
    single = Target(ProviderCard("p3", "third", "openai", credentials=(TWO,)), "m", TWO)
    fail(breakers, refused(429), 20, B)
    clock.now += 1
    fail(breakers, refused(429), 20, single)
    assert tried(breakers, single, B) == ["main"]


def test_a_call_that_costs_nothing_is_due_each_five_seconds_and_makes_the_next_request_the_trial(
    breakers: Breakers, clock: Clock
) -> None:
    fail(breakers, NO_CONNECTION, 5, B)
    assert breakers.due() == []
    clock.now += 5
    [watch] = breakers.due()
    assert breakers.due() == []
    breakers.looked(watch, ok=False)
    with pytest.raises(Unavailable):
        breakers.usable([B])
    clock.now += 5
    [watch] = breakers.due()
    breakers.looked(watch, ok=True)
    assert tried(breakers, B) == ["main"]
    breakers.begin(B)
    fail(breakers, NO_CONNECTION, 1, B)
    with pytest.raises(Unavailable):
        breakers.usable([B])


def test_a_token_that_is_taken_again_needs_no_trial(breakers: Breakers, clock: Clock) -> None:
    fail(breakers, refused(401), 1, A)
    clock.now += 5
    [watch] = breakers.due()
    breakers.looked(watch, ok=True)
    assert not breakers.open


def test_retries_are_a_fifth_of_the_requests_and_those_that_work_are_free(breakers: Breakers) -> None:
    assert [breakers.may_retry(A) for _ in range(12)] == [True] * 10 + [False] * 2
    assert breakers.may_retry(B)
    breakers.requests += 10
    assert [breakers.may_retry(A) for _ in range(3)] == [True, True, False]
    breakers.retry_worked(A)
    assert breakers.may_retry(A)
    breakers.requests += 10_000
    assert [breakers.may_retry(A) for _ in range(11)] == [True] * 10 + [False]


def test_no_more_than_ten_thousand_targets_are_watched(breakers: Breakers) -> None:
    for number in range(10_050):
        breakers.answered(Target(LAB, f"m{number}", ONE), 0.1)
    assert len(list(breakers.watches())) == 10_000
    breakers.answered(A, 0.1)
    for _ in range(1000):
        breakers.answered(A, 0.2)
    [watch] = [watch for watch in breakers.watches() if watch.target == A]
    assert len(watch.seconds) == 128


@pytest.mark.parametrize(
    ("error", "attempts", "itself", "expected"),
    [
        (NO_CONNECTION, 1, False, 0.125),
        (NO_CONNECTION, 2, False, 0.25),
        (NO_CONNECTION, 3, False, None),
        (NO_CONNECTION, 1, True, 0.125),
        (UpstreamTimeout("slow", sent=True), 1, False, None),
        (refused(500), 1, False, None),
        (refused(429, retry_after="1"), 1, False, None),
        (refused(503), 1, False, None),
        (refused(503, retry_after="2"), 1, False, 2.125),
        (refused(503, retry_after="2"), 1, True, None),
        (refused(503, retry_after="10"), 2, False, 10.25),
        (refused(503, retry_after="11"), 1, False, None),
        (refused(503, retry_after="2", x_should_retry="false"), 1, False, None),
    ],
)
def test_what_is_tried_again_and_after_which_pause(
    error: UpstreamError, attempts: int, itself: bool, expected: float | None
) -> None:
    assert retries.pause(error, attempts, retries_itself=itself, chance=lambda: 0.5) == expected
