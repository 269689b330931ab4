"""Lines in CloudWatch's embedded metric format: checked against its published schema."""

from typing import Annotated, Any, Literal

import msgspec
import pytest
from msgspec import Meta

from gateway.metrics import families as f
from gateway.metrics.emf import Emf
from gateway.metrics.pages import Page, Series

# https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html
Name = Annotated[str, Meta(min_length=1, max_length=1024)]
BYTES = ("", "Kilo", "Mega", "Giga", "Tera")
UNITS = "|".join(
    ["Seconds", "Microseconds", "Milliseconds", "Percent", "Count", "Count/Second", "None"]
    + [f"{(kilo + what).capitalize()}{per}" for kilo in BYTES for what in ("bytes", "bits") for per in ("", "/Second")]
)


class Metric(msgspec.Struct, forbid_unknown_fields=True):
    Name: Name
    Unit: Annotated[str, Meta(pattern=f"^(?:{UNITS})$")] = "None"
    StorageResolution: Literal[1, 60] = 60


class Directive(msgspec.Struct, forbid_unknown_fields=True):
    Namespace: Name
    Dimensions: Annotated[list[Annotated[list[Name], Meta(min_length=1, max_length=30)]], Meta(min_length=1)]
    Metrics: Annotated[list[Metric], Meta(max_length=100)]


class Metadata(msgspec.Struct, forbid_unknown_fields=True):
    Timestamp: int
    CloudWatchMetrics: list[Directive]


class Root(msgspec.Struct):
    aws: Metadata = msgspec.field(name="_aws")


def checked(line: dict[str, Any]) -> dict[str, Any]:
    """The line, if it keeps the schema and what the specification says of the members that it refers to."""
    root = msgspec.convert(line, Root)
    for directive in root.aws.CloudWatchMetrics:
        for name in {name for names in directive.Dimensions for name in names}:
            assert isinstance(line[name], str)
            assert 1 <= len(line[name]) <= 1024
        for metric in directive.Metrics:
            value = line[metric.Name]
            numbers = value if isinstance(value, list) else [value]
            assert 1 <= len(numbers) <= 100
            assert all(isinstance(number, int | float) and not isinstance(number, bool) for number in numbers)
    assert len(msgspec.json.encode(line)) < 256 * 1024
    return line


def test_the_check_refuses_what_the_schema_does() -> None:
    good = {"Namespace": "N", "Dimensions": [["service"]], "Metrics": [{"Name": "m", "Unit": "Count"}]}
    line = {"_aws": {"Timestamp": 1, "CloudWatchMetrics": [good]}, "service": "s", "m": 1.0}
    assert checked(line) == line
    no_name, no_unit = [{"Unit": "Count"}], [{"Name": "m", "Unit": "s"}]
    for wrong in (
        {**good, "Dimensions": []},
        {**good, "Dimensions": [[]]},
        {**good, "Metrics": no_name},
        {**good, "Metrics": no_unit},
    ):
        with pytest.raises(msgspec.ValidationError):
            checked({**line, "_aws": {"Timestamp": 1, "CloudWatchMetrics": [wrong]}})


@pytest.fixture
def page() -> Page:
    return Page(None)


def add(page: Page, family: f.Family, *labels: str, by: int = 1) -> None:
    if family.kind == "histogram":
        page.observe(family, page.slot(family, *labels), by)
    else:
        page.values[page.slot(family, *labels)] += by


def one_of_each(page: Page) -> None:
    for family in f.FAMILIES:
        add(page, family, *(f"a-{label}" for label in family.labels))


def lines(emf: Emf, series: Series) -> list[dict[str, Any]]:
    return [checked(line) for line in emf.lines(series, 1_790_000_000.25)]


def test_every_family_is_in_a_line_that_keeps_the_schema(page: Page) -> None:
    one_of_each(page)
    told = lines(Emf("LLMGateway", "function"), page.series())
    metrics = [
        metric["Name"]
        for line in told
        for directive in line["_aws"]["CloudWatchMetrics"]
        for metric in directive["Metrics"]
    ]
    assert sorted(metrics) == sorted(family.name for family in f.FAMILIES)
    assert {line["_aws"]["Timestamp"] for line in told} == {1_790_000_000_250}
    assert {line["service"] for line in told} == {"function"}


def test_counters_are_told_as_differences_and_gauges_as_they_are(page: Page) -> None:
    emf = Emf("N", "s")
    add(page, f.TOKENS, "fast", "lab", "gpt-4o", "input", by=19)
    add(page, f.COST, "fast", "lab", "gpt-4o", by=25 * 10**8)
    add(page, f.OPEN, by=2)
    [first] = lines(emf, page.series())
    assert first["gateway_tokens_total"] == 19
    assert first["gateway_cost_dollars_total"] == 0.25
    assert first["gateway_open_requests"] == 2
    assert (first["alias"], first["provider"], first["model"], first["kind"]) == ("fast", "lab", "gpt-4o", "input")
    add(page, f.TOKENS, "fast", "lab", "gpt-4o", "input", by=3)
    [second] = lines(emf, page.series())
    assert second["gateway_tokens_total"] == 3
    assert "gateway_cost_dollars_total" not in second
    assert second["gateway_open_requests"] == 2


def test_a_measured_time_is_told_as_it_was_and_of_several_the_mean(page: Page) -> None:
    emf = Emf("N", "s")
    add(page, f.DURATION, "chat.completions", "fast", "lab", "true", by=1_234_567)
    [line] = lines(emf, page.series())
    assert line["gateway_request_duration_seconds"] == 1.234567
    for by in (1_000_000, 3_000_000):
        add(page, f.DURATION, "chat.completions", "fast", "lab", "true", by=by)
    [line] = lines(emf, page.series())
    assert line["gateway_request_duration_seconds"] == [2.0, 2.0]
    for _ in range(150):
        add(page, f.DURATION, "chat.completions", "fast", "lab", "true", by=1_000_000)
    [line] = lines(emf, page.series())
    assert len(line["gateway_request_duration_seconds"]) == 100
    assert lines(emf, page.series()) == []


def test_series_whose_labels_differ_are_lines_of_their_own(page: Page) -> None:
    for kind, count in (("input", 19), ("output", 10)):
        add(page, f.TOKENS, "fast", "lab", "gpt-4o", kind, by=count)
    add(page, f.ERRORS, "UnknownModel", "", "")
    told = lines(Emf("N", "s"), page.series())
    assert [line.get("gateway_tokens_total") for line in told] == [19, 10, None]
    assert told[2]["alias"] == "-"
    [directive] = told[0]["_aws"]["CloudWatchMetrics"]
    assert directive["Dimensions"] == [["service"], ["service", "alias", "kind"]]
