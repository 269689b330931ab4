"""A start that fails, where a request is what begins it: under a server without lifespan."""

from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import sync_to_async

from gateway import engine as engines
from gateway.alerts import Herald
from gateway.engine import Engine
from tests.gateway import house


async def test_a_start_that_fails_at_its_end_is_tried_anew_by_the_next_request(
    transactional_db: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, left = Engine(tmp_path), [OSError("No space left on device")]

    def fails_once(*arguments: Any) -> Herald:
        if left:
            raise left.pop()
        return Herald(*arguments)

    monkeypatch.setattr(engines, "Herald", fails_once)
    await sync_to_async(house.client_key)()
    with pytest.raises(OSError, match="No space"):
        await engine.running()
    assert (engine.process, engine.journal, engine.ready) == (None, None, False)
    assert list(tmp_path.glob("journal/*.journal")) == []
    try:
        assert await engine.running() is engine.process
        assert engine.ready
    finally:
        await engine.stop()
