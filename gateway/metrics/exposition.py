"""Prometheus' text format 0.0.4: https://prometheus.io/docs/instrumenting/exposition_formats/ (pure)."""

from collections.abc import Iterable, Iterator

from gateway.metrics.families import FAMILIES, Family
from gateway.metrics.pages import Key, Series

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def text(series: Series) -> bytes:
    """All families, those without a series too, so that a dashboard finds the names."""
    of: dict[str, list[tuple[Key, list[int]]]] = {}
    for key, values in sorted(series.items()):
        of.setdefault(key[0], []).append((key, values))
    lines: list[str] = []
    for family in FAMILIES:
        lines += [f"# HELP {family.name} {family.help}", f"# TYPE {family.name} {family.kind}"]
        for key, values in of.get(family.name, []):
            lines += _samples(family, list(zip(family.labels, key[1:], strict=True)), values)
    return "\n".join([*lines, ""]).encode()


def _samples(family: Family, labels: list[tuple[str, str]], values: list[int]) -> Iterator[str]:
    if family.kind != "histogram":
        yield f"{family.name}{_braces(labels)} {decimal(values[0], family.scale)}"
        return
    count = 0
    bounds = [*(decimal(bound, family.scale) for bound in family.bounds), "+Inf"]
    for bound, number in zip(bounds, values, strict=False):
        count += number
        yield f"{family.name}_bucket{_braces([*labels, ('le', bound)])} {count}"
    yield f"{family.name}_sum{_braces(labels)} {decimal(values[-1], family.scale)}"
    yield f"{family.name}_count{_braces(labels)} {count}"


def _braces(labels: Iterable[tuple[str, str]]) -> str:
    inside = ",".join(f'{name}="{_escaped(value)}"' for name, value in labels)
    return f"{{{inside}}}" if inside else ""


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def decimal(value: int, places: int) -> str:
    """The number that so many units are, exactly: 0.25, 3, 0.0000000001."""
    if not places:
        return str(value)
    digits = str(abs(value)).rjust(places + 1, "0")
    fraction = digits[-places:].rstrip("0")
    return f"{'-' if value < 0 else ''}{digits[:-places]}{'.' + fraction if fraction else ''}"
