import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.limits import gcra

RATE = gcra.rate(600, 60)


def passing(of: gcra.Rate, arrivals: list[float]) -> list[float]:
    tat, passed = 0.0, []
    for now in arrivals:
        if not gcra.wait(of, tat, now, 1):
            tat = gcra.charged(of, tat, now, 1)
            passed.append(now)
    return passed


@given(
    st.integers(1, 6000),
    st.integers(1, 100),
    st.lists(st.floats(0, 5), min_size=1, max_size=300),
)
def test_no_span_of_time_lets_more_pass_than_its_share_and_one_burst(limit: int, burst: int, gaps: list[float]) -> None:
    of = gcra.rate(limit, burst)
    now, arrivals = 1000.0, []
    for gap in gaps:
        now += gap
        arrivals.append(now)
    passed = passing(of, arrivals)
    for first, begin in enumerate(passed):
        for last in range(first, len(passed)):
            assert last - first + 1 <= burst + (passed[last] - begin) * limit / 60 + 0.01


def test_a_full_bucket_lets_its_burst_pass_at_once_and_then_one_an_interval() -> None:
    assert len(passing(RATE, [1000.0] * 100)) == 60
    steady = [1000.0] * 60 + [1000 + tenth / 10 for tenth in range(1, 101)]
    assert len(passing(RATE, steady)) == 160


def test_the_wait_is_the_time_after_which_the_same_cost_passes() -> None:
    tat = gcra.charged(RATE, 0, 1000.0, 60)
    wait = gcra.wait(RATE, tat, 1000.0, 5)
    assert wait == pytest.approx(0.5)
    assert gcra.wait(RATE, tat, 1000.0 + wait, 5) == 0.0
    assert gcra.wait(RATE, tat, 1000.0 + wait - 0.001, 5) == pytest.approx(0.001)


def test_a_cost_over_the_burst_waits_for_a_full_bucket_and_overdraws_it() -> None:
    tat = gcra.charged(RATE, 0, 1000.0, 1)
    assert gcra.wait(RATE, tat, 1000.0, 100) == pytest.approx(0.1)
    tat = gcra.charged(RATE, tat, 1000.1, 100)
    assert gcra.room(RATE, tat, 1000.1) == pytest.approx(-40, abs=0.001)


def test_what_time_has_given_back_is_not_given_back_a_second_time() -> None:
    until = gcra.charged(RATE, 0, 1000.0, 60)  # 6 s
    assert gcra.refundable(RATE, until, 1000.0, 60) == pytest.approx(60)
    assert gcra.refundable(RATE, until, 1004.0, 60) == pytest.approx(20)
    assert gcra.refundable(RATE, until, 1004.0, 15) == 15
    assert gcra.refundable(RATE, until, 1010.0, 60) == 0
