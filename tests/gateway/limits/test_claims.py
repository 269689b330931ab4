import pytest

from gateway.limits.claims import Claim, Estimates, Verdict, claim, duration, rates, standing
from gateway.models import NAME
from gateway.parsing import asks
from providers.targets import AliasCard, KeyCard, Limits, TeamCard


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        *[(0, "0s"), (0.012, "12ms"), (0.0121, "13ms"), (0.9999, "1s"), (1, "1s"), (8.64, "8.64s"), (60, "1m0s")],
        *[(86.4, "1m26.4s"), (360, "6m0s"), (3600, "1h0m0s"), (3661.001, "1h1m1.001s")],
    ],
)
def test_a_duration_is_written_as_go_does(seconds: float, shown: str) -> None:
    assert duration(seconds) == shown


def key(**fields: object) -> KeyCard:
    return KeyCard("k1", "app", "p1", b"d", **fields)  # type: ignore[arg-type]


def buckets(made: Claim) -> list[tuple[str, float]]:
    return [(charge.bucket, charge.cost) for charge in made.charges]


def not_asked() -> int:
    pytest.fail("a request's tokens were estimated, and nothing counts them")


def test_without_limits_nothing_is_claimed() -> None:
    assert not claim(key(), AliasCard("a1", "fast"), "ann", "req_1", not_asked)


def test_tokens_are_estimated_only_where_they_are_counted_and_once() -> None:
    requests, tokens = Limits(rpm=60, concurrency=2), Limits(tpm=1000)
    made = claim(key(limits=requests), AliasCard("a1", "fast", limits=requests), "ann", "req_1", not_asked)
    assert buckets(made) == [("key:k1:r", 1), ("alias:a1:r", 1)]
    once = iter([7])
    made = claim(key(limits=tokens), AliasCard("a1", "fast", limits=tokens), "ann", "req_1", lambda: next(once))
    assert buckets(made) == [("key:k1:t", 7), ("alias:a1:t", 7)]


def test_places_and_requests_come_before_tokens_and_the_key_before_its_team_its_user_and_the_alias() -> None:
    every = Limits(rpm=60, tpm=1000, concurrency=2)
    card = key(principal="old", limits=every, end_user_limits=every, team=TeamCard("t1", "web", every))
    made = claim(card, AliasCard("a1", "fast", limits=every), "ann", "req_1", lambda: 100)
    scopes = ["key:old", "team:t1", "user:old:ann", "alias:a1"]
    assert [(slot.bucket, slot.limit) for slot in made.slots] == [(scope, 2) for scope in scopes]
    assert buckets(made) == [(f"{scope}:r", 1) for scope in scopes] + [(f"{scope}:t", 100) for scope in scopes]


def test_a_call_that_is_larger_than_a_minute_takes_a_whole_minute() -> None:
    made = claim(key(limits=Limits(tpm=1000)), AliasCard("a1", "fast"), "", "req_1", lambda: 5000)
    assert buckets(made) == [("key:k1:t", 1000)]


@pytest.mark.parametrize(
    ("limits", "burst"), [(Limits(rpm=600), 60), (Limits(rpm=5), 1), (Limits(rpm=600, burst=7), 7)]
)
def test_the_burst_is_a_tenth_of_the_minute_where_nothing_is_said(limits: Limits, burst: int) -> None:
    requests, tokens = rates(limits)
    assert requests is not None
    assert (requests.limit, requests.burst, tokens) == (limits.rpm, burst, None)


def test_the_headers_are_of_the_tightest_bucket() -> None:
    wide, _ = rates(Limits(rpm=600))
    tight, _ = rates(Limits(rpm=60, burst=10))
    assert wide is not None
    assert tight is not None
    verdict = Verdict()
    verdict.note("requests", standing(wide, 100.0, 100.0))
    verdict.note("requests", standing(tight, 101.0, 100.0))
    assert verdict.headers() == [
        (b"x-ratelimit-limit-requests", b"60"),
        (b"x-ratelimit-remaining-requests", b"9"),
        (b"x-ratelimit-reset-requests", b"1s"),
    ]


def ask(text: bytes) -> asks.Ask:
    return asks.parse(text, endpoint="chat.completions", path="/chat/completions", streams=True)


def test_an_estimate_is_the_prompt_by_its_bytes_and_the_answer_by_its_bound() -> None:
    bounded = ask(b'{"model":"m","messages":[],"max_tokens":50,"n":2}')
    assert Estimates().tokens(key(), bounded) == 17 + 100


def test_without_a_bound_the_answer_is_as_long_as_the_answers_of_that_key_are() -> None:
    estimates, free = Estimates(), ask(b'{"model":"m","messages":[]}')
    assert estimates.tokens(key(), free) == 9 + 256
    estimates.learn(key(), 10)
    assert estimates.tokens(key(), free) == 9 + 10
    estimates.learn(key(), 110)
    assert estimates.tokens(key(), free) == 9 + 20
    assert estimates.tokens(key(principal="other"), free) == 9 + 256


def test_the_name_of_a_bucket_fits_its_column_whatever_an_issuer_calls_its_users() -> None:
    every = Limits(rpm=60, tpm=1000, concurrency=2)
    made = [
        claim(key(end_user_limits=every), AliasCard("a1", "fast"), user, "req_1", lambda: 1)
        for user in ("x" * 200, "x" * 199 + "y")
    ]
    names = {slot.bucket for one in made for slot in one.slots} | {name for one in made for name, _ in buckets(one)}
    assert len(names) == 6
    assert max(map(len, names)) <= NAME - len("k" * 40)
