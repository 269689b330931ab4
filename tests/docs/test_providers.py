"""The table of docs/providers.md is what the golden sets show, and every quirk stands in the page."""

from pathlib import Path

import pytest

from providers import quirks
from providers.presets import presets
from proxysite.env import BASE_DIR
from tests.providers.dialects import golden_sets
from tests.providers.dialects.golden_sets import Case, Golden

PAGE = (Path(BASE_DIR) / "docs/providers.md").read_text(encoding="utf-8")
HEAD = "| preset | streams | tools in a stream | embeddings | adapters | is waited for |\n|---|---|---|---|---|---|\n"


def table() -> str:
    return HEAD + "".join(map(row, (golden_sets.load(name) for name in golden_sets.names())))


def row(golden: Golden) -> str:
    cases = {case.name: case for case in golden.cases}
    declared = quirks.parse(golden.preset.quirks)
    cells = (
        f"`{golden.preset.name}`",
        "yes" if "[DONE]" in cases["stream"].view["body"] else "no",
        tools(cases["tools"]),
        embeddings(cases.get("embeddings"), offered=declared.paths.get("/embeddings") != ""),
        f"`{declared.adapter}`" if declared.adapter else "",
        "yes" if declared.asleep else "",
    )
    return f"| {' | '.join(cells)} |\n"


def tools(case: Case) -> str:
    if case.view["status"] != 200:
        return "refused with a reason"
    if '"tool_calls"' not in case.view["body"]:
        return "no"
    streamed = case.exchanges[0].answer["headers"]["content-type"] == "text/event-stream"
    return "yes" if streamed else "asked for whole, told as a stream"


def embeddings(case: Case | None, *, offered: bool) -> str:
    if case is None:
        return "not tried" if offered else "no"
    if case.view["status"] != 200:
        return "no"
    return "yes"


def test_the_table_of_providers_is_what_the_golden_sets_show() -> None:
    assert table() in PAGE, f"docs/providers.md must hold:\n{table()}"


@pytest.mark.parametrize("name", [*quirks.NAMES, *quirks.FIXUPS])
def test_every_quirk_is_told(name: str) -> None:
    assert f"`{name}`" in PAGE


def test_every_preset_that_has_adapters_is_named_beside_them() -> None:
    assert [name for name, preset in presets().items() if preset.quirks.get("adapter")] == [
        *("predibase", "lorax", "fireworks", "vllm")
    ]
