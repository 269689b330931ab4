"""Prometheus' text format as its readers take it: strict, so that what is not of the form fails the test."""

import re
from typing import Any

SAMPLE = re.compile(r'([a-z_]+)(?:\{((?:[a-z_]+="(?:[^"\\\n]|\\["\\n])*",?)*)\})? (\S+)')
LABEL = re.compile(r'([a-z_]+)="((?:[^"\\]|\\.)*)"')
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def parsed(text: str) -> Samples:
    samples: Samples = {}
    typed: dict[str, str] = {}
    assert text.endswith("\n")
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            assert name not in typed
            typed[name] = kind
        elif not line.startswith("# HELP "):
            match = SAMPLE.fullmatch(line)
            assert match, line
            family = re.sub(r"_(bucket|sum|count)$", "", match[1])
            assert match[1] in typed or typed.get(family) == "histogram", line
            key = (match[1], frozenset(LABEL.findall(match[2] or "")))
            assert key not in samples, line
            samples[key] = float(match[3])
    return samples


def value(samples: Samples, name: str, **labels: Any) -> float:
    """The sum of the samples of that name that have those labels."""
    wanted = {(label, str(text)) for label, text in labels.items()}
    return sum(number for (found, has), number in samples.items() if found == name and wanted <= has)


def names(samples: Samples) -> set[str]:
    return {name for name, _ in samples}
