"""Stacked bars a day, as SVG that stretches to the room that it is given; the words around it are HTML (pure).

Its bars are drawn without keeping their proportions, so that the text beside them has one size on every screen. Colours
are classes of console/usage.css: the site's policy lets no style stand in a page.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import date
from decimal import ROUND_CEILING, Decimal
from typing import Any

import msgspec
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from console import numbers

HEIGHT = 1000
SLOT = 10  # the width of a day
INTERVALS = 5
STEPS = (Decimal(1), Decimal(2), Decimal("2.5"), Decimal(5), Decimal(10))
DENSE = 45  # with more days than that there is no room between the bars
LABELS = 6
SLIVER = Decimal(4)  # what is not nothing is seen

Amounts = Mapping[tuple[date, str | None], Any]


class Series(msgspec.Struct, frozen=True):
    """`style` is the class of its colour, as in the legend and in the table."""

    value: str | None
    name: str
    style: str


class Measure(msgspec.Struct, frozen=True):
    """One chart: `read` takes its number out of sums, `say` writes one; `whole` numbers have no half ticks."""

    title: str
    read: Callable[[Any], int | Decimal]
    say: Callable[[int | Decimal], str]
    whole: bool = True


class Label(msgspec.Struct, frozen=True):
    """`is_minor`: where there is little room it is left out."""

    text: str
    is_minor: bool = False


class Chart(msgspec.Struct, frozen=True):
    name: str
    title: str
    total: str
    ticks: list[str]  # from the top
    labels: list[Label]  # one a day, most of them empty
    svg: SafeString


def draw(name: str, measure: Measure, days: Sequence[date], series: Sequence[Series], amounts: Amounts) -> Chart:
    """`amounts` has sums by day and a series' value."""
    numbers_of = {place: measure.read(sums) for place, sums in amounts.items()}
    heights = {day: sum(numbers_of.get((day, one.value), 0) for one in series) for day in days}
    largest = Decimal(max(heights.values(), default=0))
    step = step_for(largest, whole=measure.whole)
    intervals = int(max((largest / step).to_integral_value(ROUND_CEILING), Decimal(1)))
    top = step * intervals
    bars = format_html_join(
        "",
        '<g class="day"><rect class="hit" x="{}" y="0" width="{}" height="{}"><title>{}: {}</title></rect>{}</g>',
        (
            (
                *(place * SLOT, SLOT, HEIGHT, day, measure.say(heights[day])),
                _bars(place, day, series, numbers_of, top, measure, len(days)),
            )
            for place, day in enumerate(days)
        ),
    )
    whole = sum(heights.values())
    svg = format_html(
        '<svg class="{}" viewBox="0 0 {} {}" preserveAspectRatio="none" role="img" aria-labelledby="{}-title {}-desc">'
        '<title id="{}-title">{} a day</title><desc id="{}-desc">{}</desc>{}{}</svg>',
        *("dense" if len(days) > DENSE else "", len(days) * SLOT, HEIGHT, name, name, name, measure.title, name),
        _described(measure, days, heights),
        _lines(intervals, len(days)),
        bars,
    )
    ticks = [tick(step * number, step, measure) for number in range(intervals, -1, -1)]
    return Chart(name, measure.title, measure.say(whole), ticks, labels_of(days), svg)


def step_for(largest: Decimal, *, whole: bool) -> Decimal:
    """The distance of the lines: 1, 2, 2.5 or 5 times a power of ten, so that at most INTERVALS hold the largest."""
    if largest <= 0:
        return Decimal(1)
    rough = largest / INTERVALS
    power = Decimal(1).scaleb(rough.adjusted())
    steps = (power * step for step in STEPS)
    if whole:
        steps = (step for step in steps if step >= 1 and step == step.to_integral_value())
    return next((step for step in steps if step >= rough), Decimal(1))


def tick(value: Decimal, step: Decimal, measure: Measure) -> str:
    if measure.whole:
        return numbers.compact(int(value))
    if step >= 1000:
        return f"${numbers.compact(int(value))}"
    exponent = step.normalize().as_tuple().exponent
    places = max(-exponent, 0) if isinstance(exponent, int) else 0
    return f"${value:,.{2 if places == 1 else places}f}" if value else "$0"


def labels_of(days: Sequence[date]) -> list[Label]:
    """A few days by name, at equal distances from the last one of them."""
    every = -(-len(days) // LABELS) if len(days) > LABELS + 1 else 1
    last = len(days) - 1 - every // 3
    shown = range(last, -1, -every)
    texts = {place: Label(f"{days[place].day} {days[place]:%b}", number % 2 == 1) for number, place in enumerate(shown)}
    return [texts.get(place, Label("")) for place in range(len(days))]


def _lines(intervals: int, days: int) -> SafeString:
    places = [HEIGHT * number / intervals for number in range(intervals + 1)]
    return format_html_join(
        "",
        '<line class="{}" x1="0" x2="{}" y1="{}" y2="{}"/>',
        (("ground" if y == HEIGHT else "line", days * SLOT, f"{y:.1f}", f"{y:.1f}") for y in places),
    )


def _bars(
    place: int,
    day: date,
    series: Sequence[Series],
    amounts: Mapping[tuple[date, str | None], int | Decimal],
    top: Decimal,
    measure: Measure,
    days: int,
) -> SafeString:
    width = Decimal(SLOT) * (Decimal("0.5") if days <= 10 else Decimal("0.72") if days <= DENSE else Decimal("0.8"))
    x = place * SLOT + (SLOT - width) / 2

    def parts() -> Iterator[tuple[Any, ...]]:
        ground = Decimal(HEIGHT)
        for one in series:
            amount = amounts.get((day, one.value), 0)
            if amount <= 0:
                continue
            height = max(HEIGHT * Decimal(amount) / top, SLIVER)
            ground -= height
            yield one.style, x, f"{ground:.1f}", width, f"{height:.1f}", day, one.name, measure.say(amount)

    return format_html_join(
        "", '<rect class="{}" x="{}" y="{}" width="{}" height="{}"><title>{} · {}: {}</title></rect>', parts()
    )


def _described(measure: Measure, days: Sequence[date], heights: Mapping[date, int | Decimal]) -> str:
    best = max(days, key=lambda day: heights[day])
    return (
        f"{measure.title} from {days[0]} to {days[-1]}: {measure.say(sum(heights.values()))} in all, "
        f"most on {best}: {measure.say(heights[best])}. The tables below have all numbers."
    )
