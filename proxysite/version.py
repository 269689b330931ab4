"""The version of the program: the newest heading of CHANGELOG.md, and nowhere else."""

import re
from functools import cache

from proxysite.env import BASE_DIR

HEADING = re.compile(r"^## \[(\d+\.\d+\.\d+)\]", re.MULTILINE)  # https://keepachangelog.com/en/1.1.0/


@cache
def version() -> str:
    """Reads the file at the first call; raises RuntimeError where it has no heading of the form `## [1.2.3]`."""
    newest = HEADING.search((BASE_DIR / "CHANGELOG.md").read_text(encoding="utf-8"))
    if newest is None:
        raise RuntimeError("CHANGELOG.md has no heading of the form ## [1.2.3]")
    return newest[1]
