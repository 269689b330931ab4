"""docs/metrics.md names every metric with its kind, labels and meaning, and no other."""

import re

from gateway.metrics.families import FAMILIES
from proxysite.env import BASE_DIR


def test_the_table_is_the_programs_own() -> None:
    page = (BASE_DIR / "docs" / "metrics.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| (.+?) \| (.+?) \|$", page, re.MULTILINE)
    assert rows == [
        (one.name, one.kind, ", ".join(f"`{label}`" for label in one.labels) or "none", one.help) for one in FAMILIES
    ]
