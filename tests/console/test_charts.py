from datetime import date, timedelta
from decimal import Decimal
from itertools import pairwise

import pytest

from console import charts, numbers
from console.charts import Measure, Series
from console.spans import Span, span_of

D = Decimal
MAY = date(2026, 5, 20)
PLAIN = Measure("Requests", lambda number: number, str)


@pytest.mark.parametrize(
    ("largest", "whole", "step"),
    [
        ("0", False, "1"),
        ("1", True, "1"),
        ("7", True, "2"),
        ("11", True, "5"),
        ("11", False, "2.5"),
        ("10.2", False, "2.5"),
        ("50", True, "10"),
        ("51", True, "20"),
        ("0.0004", False, "0.0001"),
        ("1234567", True, "250000"),
    ],
)
def test_the_lines_are_at_round_numbers_and_five_at_most(largest: str, whole: bool, step: str) -> None:
    assert charts.step_for(D(largest), whole=whole) == D(step)
    assert D(largest) / charts.step_for(D(largest), whole=whole) <= 5


def test_the_highest_bar_stays_below_the_highest_line() -> None:
    chart = charts.draw("c", PLAIN, [MAY], [Series("a", "a", "s0")], {(MAY, "a"): 208})
    assert chart.ticks == ["250", "200", "150", "100", "50", "0"]
    assert '<rect class="s0" x="2.5" y="168.0" width="5.0" height="832.0">' in chart.svg


def test_what_is_little_is_seen_and_what_is_less_than_nothing_is_not_drawn() -> None:
    series = [Series(name, name, style) for name, style in (("a", "s0"), ("b", "s1"), ("c", "s2"))]
    chart = charts.draw("c", PLAIN, [MAY], series, {(MAY, "a"): 9000, (MAY, "b"): 1, (MAY, "c"): -5})
    assert 'class="s1" x="2.5" y="96.0" width="5.0" height="4.0"' in chart.svg
    assert 's2"' not in chart.svg


@pytest.mark.parametrize("days", [1, 7, 20, 30, 31, 90])
def test_a_few_days_have_a_label_whatever_their_number(days: int) -> None:
    labels = charts.labels_of([MAY - timedelta(days=back) for back in range(days - 1, -1, -1)])
    places = [place for place, label in enumerate(labels) if label.text]
    assert len(labels) == days
    assert min(days, 5) <= len(places) <= 7
    assert len({later - place for place, later in pairwise(places)}) <= 1
    assert labels[places[-1]].text == f"{(MAY - timedelta(days=days - 1 - places[-1])).day} May"


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"),
        (999, "999"),
        (1000, "1k"),
        (12_345, "12.3k"),
        (999_949, "1M"),
        (4_560_000, "4.56M"),
        (191_000_000, "191M"),
        (2_500_000_000, "2.5B"),
    ],
)
def test_large_numbers_have_three_figures(number: int, text: str) -> None:
    assert numbers.compact(number) == text


@pytest.mark.parametrize(
    ("amount", "places", "text"),
    [
        ("0", 2, "$0"),
        ("1234.565", 2, "$1,234.56"),
        ("0.004", 2, "<$0.01"),
        ("0.00001", 4, "<$0.0001"),
        ("-3", 2, "-$3.00"),
        ("0.000012", 6, "$0.000012"),
    ],
)
def test_an_amount_that_is_not_nothing_never_looks_like_it(amount: str, places: int, text: str) -> None:
    assert numbers.dollars(D(amount), places) == text


@pytest.mark.parametrize(
    ("part", "whole", "text"),
    [(0, 5, "0%"), (5, 0, ""), (1, 10_000, "<0.1%"), (1, 200, "0.5%"), (1, 10, "10%"), (99, 100, "99%")],
)
def test_shares(part: int, whole: int, text: str) -> None:
    assert numbers.percent(part, whole) == text


@pytest.mark.parametrize(
    ("now", "before", "text"),
    [(5, 0, ""), (15, 10, "+50%"), (5, 10, "\u221250%"), (1000, 1001, "0%"), (5000, 10, "500 times")],
)
def test_changes(now: int, before: int, text: str) -> None:
    assert numbers.change(now, before) == text


def test_months_know_the_turn_of_the_year() -> None:
    assert span_of("last-month", date(2027, 1, 1)) == Span(date(2026, 12, 1), date(2026, 12, 31))
    assert span_of("month", date(2028, 2, 29)) == Span(date(2028, 2, 1), date(2028, 2, 29))
    assert span_of("month", date(2027, 1, 1)).before() == Span(date(2026, 12, 31), date(2026, 12, 31))
    assert len(list(span_of("90d", MAY).days())) == 90
