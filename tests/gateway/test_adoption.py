"""What a dead process has left does not hold up those who live."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import sync_to_async

from gateway.engine import Engine
from ledger import drain
from ledger.entries import Settled
from ledger.journal import Journal
from ledger.models import UsageRecord
from ledger.tape import Reject

LINES = 5000


async def test_a_long_journal_is_adopted_in_parts_and_requests_come_in_between(
    transactional_db: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = Journal(tmp_path / "journal")
    for number in range(LINES):
        gone.append(Settled(f"req_{number}", 1.0, outcome="ok"))
    gone.close()
    engine = Engine(tmp_path)
    seen: list[int] = []
    real = drain.store_each

    def stored(entries: Sequence[Settled], reject: Reject) -> Any:
        if not seen:  # with the first part under way a request asks for something
            seen.append(-1)
            loop.call_soon_threadsafe(lambda: asking.append(asyncio.ensure_future(ask())))
        return real(entries, reject)

    async def ask() -> None:
        seen.append(await engine.sql(UsageRecord.objects.count))

    loop, asking = asyncio.get_running_loop(), list[asyncio.Future[None]]()
    monkeypatch.setattr(drain, "store_each", stored)
    await engine.start()
    try:
        while await sync_to_async(UsageRecord.objects.count)() < LINES:
            await asyncio.sleep(0.02)
        await asyncio.gather(*asking)
    finally:
        await engine.stop()
    assert 0 < seen[1] < LINES
