"""Every preset against its golden set: the exact request upstream, the exact view of the client."""

from pathlib import Path

import pytest

from providers.presets import presets
from tests.gateway.house import TOKEN
from tests.providers.dialects import golden_sets
from tests.scripted import ScriptedUpstream


def test_every_preset_has_a_golden_set() -> None:
    assert golden_sets.names() == sorted(set(presets()) - {"custom"})


async def test_what_goes_upstream_and_what_the_client_sees(
    transactional_db: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    golden_sets.hurry(monkeypatch)
    sets = [golden_sets.load(name) for name in golden_sets.names()]
    async with ScriptedUpstream() as upstream, golden_sets.opened(sets, upstream, tmp_path) as door:
        for golden, case in ((one, case) for one in sets for case in one.cases):
            where = f"{golden.preset.name}: {case.name}"
            requests, view = await golden_sets.play(door, upstream, case)
            assert (where, requests) == (where, [dict(exchange.request) for exchange in case.exchanges])
            assert (where, view) == (where, case.view)
            assert door.key not in str(requests)
            assert TOKEN not in str(view)
