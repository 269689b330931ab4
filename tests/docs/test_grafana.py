"""The ready dashboard and alert rules ask for metrics and labels that there are."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from gateway.metrics.families import BY_NAME
from proxysite.env import BASE_DIR

FOLDER = BASE_DIR / "docs" / "grafana"
DASHBOARD: dict[str, Any] = json.loads((FOLDER / "dashboard.json").read_text())
RULES: list[dict[str, Any]] = yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"][0]["rules"]
# Given by Prometheus itself.
OUTSIDE = {"job", "instance", "le"}
METRIC = re.compile(r"\b(gateway_\w+?)(_bucket|_sum|_count)?(?![\w])(\{[^}]*\})?")


def expressions() -> Iterator[str]:
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", ()):
            yield target["expr"]
    for variable in DASHBOARD["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["query"]
    for rule in RULES:
        yield rule["expr"]


def asked(expression: str) -> Iterator[tuple[str, str, set[str]]]:
    """Each metric, its suffix, and the labels that it is selected, grouped or listed by."""
    grouped = set(re.findall(r"\w+", " ".join(re.findall(r"\bby \(([^)]*)\)", expression))))
    listed = set(re.findall(r"label_values\(\w+, (\w+)\)", expression))
    for name, suffix, selected in METRIC.findall(expression):
        if name not in BY_NAME and name + suffix in BY_NAME:
            name, suffix = name + suffix, ""
        yield name, suffix, set(re.findall(r"(\w+)(?:=|!=|=~|!~)\"", selected)) | grouped | listed


@pytest.mark.parametrize("expression", list(expressions()))
def test_every_metric_and_label_exists(expression: str) -> None:
    found = list(asked(expression))
    assert found
    for name, suffix, labels in found:
        family = BY_NAME[name]
        assert (family.kind == "histogram") == bool(suffix)
        assert labels - OUTSIDE <= set(family.labels)
        if family.kind == "counter" and "label_values" not in expression:
            assert re.search(rf"(rate|increase)\({name}", expression)


def test_the_check_finds_a_metric_that_is_not_there() -> None:
    assert [name for name, _, _ in asked('sum by (nobody) (rate(gateway_no_such_total{x="1"}[5m]))')] == [
        "gateway_no_such_total"
    ]
    assert next(asked('sum by (nobody) (rate(gateway_requests_total{x="1"}[5m]))'))[2] == {"nobody", "x"}


def test_every_metric_is_on_the_dashboard() -> None:
    shown = {
        name
        for panel in DASHBOARD["panels"]
        for target in panel.get("targets", ())
        for name, _, _ in asked(target["expr"])
    }
    assert shown == set(BY_NAME)


def test_panels_have_ids_of_their_own_and_do_not_overlap() -> None:
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        mine = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert at["x"] + at["w"] <= 24
        assert not mine & cells
        cells |= mine


def test_each_rule_says_what_it_means() -> None:
    assert all({"alert", "expr", "labels", "annotations"} <= set(rule) for rule in RULES)
    assert len({rule["alert"] for rule in RULES}) == len(RULES)
