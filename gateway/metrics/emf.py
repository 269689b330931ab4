"""The same numbers as lines of the log from which CloudWatch makes metrics, where nobody can come and read them.

https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html
"""

from collections.abc import Iterator
from typing import Any

from gateway.metrics.exposition import decimal
from gateway.metrics.families import BY_NAME, Family
from gateway.metrics.pages import Key, Series

MOST_VALUES = 100  # of one metric in one line
# Each combination of dimensions is a metric that CloudWatch charges for: of a family's labels only these are any. The
# others stand in the line all the same, where Logs Insights finds them.
DIMENSIONS = ("alias", "kind", "outcome", "error", "reason", "code", "state")
SERVICE = "service"


class Emf:
    """`lines` gives what has changed since it was last asked: counters as differences, gauges as they are."""

    def __init__(self, namespace: str, service: str) -> None:
        self.namespace = namespace
        self.service = service
        self._told: Series = {}

    def lines(self, series: Series, now: float) -> list[dict[str, Any]]:
        """One document for all that agree in their labels; `now` is wall time in seconds."""
        documents: list[dict[str, Any]] = []
        for family, labels, value in self._news(series):
            document = next((one for one in documents if _fits(one, family, labels)), None)
            if document is None:
                document = {
                    "_aws": {"Timestamp": int(now * 1000), "CloudWatchMetrics": []},
                    SERVICE: self.service,
                }
                documents.append(document)
            document.update(labels)
            document[family.name] = value
            self._declare(document["_aws"]["CloudWatchMetrics"], family)
        return documents

    def _news(self, series: Series) -> Iterator[tuple[Family, dict[str, str], float | list[float]]]:
        for key, values in series.items():
            family = BY_NAME[key[0]]
            value = _value(family, values, self._told.get(key))
            self._told[key] = values
            if value is not None:
                yield family, labels_of(key), value

    def _declare(self, directives: list[dict[str, Any]], family: Family) -> None:
        names = [name for name in family.labels if name in DIMENSIONS]
        dimensions = [[SERVICE], [SERVICE, *names]] if names else [[SERVICE]]
        metric = {"Name": family.name, "Unit": family.unit}
        for directive in directives:
            if directive["Dimensions"] == dimensions:
                directive["Metrics"].append(metric)
                return
        directives.append({"Namespace": self.namespace, "Dimensions": dimensions, "Metrics": [metric]})


def labels_of(key: Key) -> dict[str, str]:
    """CloudWatch takes no empty dimension."""
    return {name: value or "-" for name, value in zip(BY_NAME[key[0]].labels, key[1:], strict=True)}


def _fits(document: dict[str, Any], family: Family, labels: dict[str, str]) -> bool:
    return family.name not in document and all(document.get(name, value) == value for name, value in labels.items())


def _value(family: Family, values: list[int], told: list[int] | None) -> float | list[float] | None:
    if family.kind == "gauge":
        return float(decimal(values[0], family.scale))
    fresh = values if told is None else [new - old for new, old in zip(values, told, strict=True)]
    if family.kind == "counter":
        return float(decimal(fresh[0], family.scale)) if fresh[0] else None
    count = sum(fresh[:-1])
    if not count:
        return None
    # Of one request, the usual case, this is what was measured; of several at once their mean.
    mean = float(decimal(fresh[-1] // count, family.scale))
    return mean if count == 1 else [mean] * min(count, MOST_VALUES)
