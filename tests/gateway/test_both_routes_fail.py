"""Two routes that fail in different ways, and budgets at their limit: one row a request, and the sums are right."""

import asyncio
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import sync_to_async

from ledger.models import BudgetAccount, DailyRollup
from tests.gateway import golden, house
from tests.gateway.leaving import ASK
from tests.gateway.test_budgets import settled
from tests.gateway.test_paid_twice import BROKEN_OFF, PROMPT, T, configure
from tests.scripted import FIN, HANG, RESET, SSE_HEADERS, Chunk, Received, ScriptedUpstream, Step, head, json_answer

D = Decimal
CALL: dict[str, Any] = {**ASK, "max_tokens": 50}
CHUNKED = head(200, {"content-type": "application/json", "transfer-encoding": "chunked"})
EVENTS = head(200, {**SSE_HEADERS, "transfer-encoding": "chunked"})
ENDS: dict[str, tuple[list[Step], str, int]] = {
    # The second route's end, how the request ends, and what of the second answer had come.
    "in the status line": ([b"HTTP/1.1 20", RESET], "upstream_broken", 0),
    "in the headers": ([b"HTTP/1.1 200 OK\r\ncontent-ty", FIN], "upstream_broken", 0),
    "in a chunk's size": ([CHUNKED + b"1", RESET], "upstream_broken", 0),
    "in a chunk": ([CHUNKED + b"40\r\n" + b"x" * 40, RESET], "upstream_broken", 10),
    "after a chunk": ([CHUNKED, Chunk(b"x" * 40), FIN], "upstream_broken", 10),
    "in silence": ([CHUNKED, Chunk(b"x" * 40), HANG], "upstream_timeout", 10),
    "in an event": ([EVENTS, RESET], "upstream_broken", 0),
}


@pytest.mark.parametrize("way", ENDS)
@pytest.mark.parametrize("streams", [False, True], ids=["whole", "stream"])
async def test_a_timeout_and_a_broken_answer_are_one_row_and_both_are_charged(
    transactional_db: None, tmp_path: Path, scripted: ScriptedUpstream, way: str, streams: bool
) -> None:
    second, code, came = ENDS[way]
    async with house.open_house(lambda: configure(scripted, "100/total"), tmp_path) as door, door.http() as http:
        scripted.enqueue([HANG] if streams else BROKEN_OFF, second)
        answer = await http.post("/chat/completions", json={**CALL, "stream": streams})
        [row] = await door.rows(1)
        assert answer.json()["error"]["code"] == code
        assert answer.status_code == row.status == (504 if code == "upstream_timeout" else 502)
        first = PROMPT * T + (0 if streams else 23 * 3 * T)
        assert row.attempts[0]["cost"] == f"{first.normalize():f}"
        assert (row.tokens_in, row.usage_source) == (PROMPT, "estimated")
        assert row.tokens_out in (came, 0)
        assert row.cost == first + 2 * PROMPT * T + row.tokens_out * 3 * T
        assert row.reserved is not None
        assert row.cost <= row.reserved
        total = await sync_to_async(DailyRollup.objects.get)()
        assert (total.requests, total.cost) == (1, row.cost)
        assert (await settled(door)).spent == row.cost


async def test_calls_at_once_that_time_out_stay_within_the_budget(
    transactional_db: None, tmp_path: Path, scripted: ScriptedUpstream
) -> None:
    """Room for twelve calls: of ten that time out at once two may be tried again, and more as others end."""

    def play(received: Received) -> list[Step]:
        return [HANG] if received.json()["model"] == "first-model" else json_answer(golden.COMPLETION)

    async with house.open_house(lambda: configure(scripted, "100/total"), tmp_path) as door, door.http() as http:
        scripted.enqueue(json_answer(golden.COMPLETION))
        await http.post("/chat/completions", json=CALL)
        [row] = await door.rows(1)
        account = await settled(door)
        assert row.reserved is not None
        left = 12 * row.reserved + T

        def leave() -> None:
            BudgetAccount.objects.filter(pk=account.pk).update(spent=account.amount - left)

        await sync_to_async(leave)()
        scripted.default = play
        answers = await asyncio.gather(*(http.post("/chat/completions", json=CALL, timeout=20) for _ in range(10)))
        rows = (await door.rows(11))[1:]
        statuses = [answer.status_code for answer in answers]
        assert 2 <= statuses.count(200) == 10 - statuses.count(504)
        assert sorted(len(each.attempts) for each in rows) == sorted(1 + (status == 200) for status in statuses)
        found = await settled(door)
        assert found.spent == account.amount - left + sum(each.cost or D(0) for each in rows)
        assert found.spent <= account.amount
