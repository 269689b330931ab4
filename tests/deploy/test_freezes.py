"""What a frozen environment holds (nothing), and what it knows when it is thawed ten minutes later."""

import asyncio
import json
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.emulator import Emulator
from tests.deploy.functions import Function, House, open_house
from tests.deploy.test_gateway_on_lambda import SSE_HEAD, STREAM, WHOLE, piece
from tests.deploy.test_stateless import chat, seed
from tests.gateway import golden
from tests.scripted import HANG, ScriptedUpstream, json_answer

CENT, NONE = Decimal("0.01"), Decimal(0)
HELD = """
from django.db.models import Sum
from gateway.models import GatewayProcess, LimitPlace
from ledger.models import BudgetAccount, Lease, LeaseHolder
result = {
    'modes': list(GatewayProcess.objects.values_list('mode', flat=True)),
    'places': LimitPlace.objects.count(),
    'leases': Lease.objects.count(),
    'accounts': [[str(one.spent), str(one.reserved)] for one in BudgetAccount.objects.all()],
}
"""


@pytest.fixture
async def upstream() -> AsyncIterator[ScriptedUpstream]:
    async with ScriptedUpstream() as scripted:
        scripted.default = json_answer(golden.COMPLETION)
        yield scripted


@pytest.fixture
async def house(tmp_path: Path, upstream: ScriptedUpstream, postgres_url: str, clock: Path) -> AsyncIterator[House]:
    """A cent a call; a key with four places, two requests a minute and a dollar."""
    async with open_house(tmp_path, upstream.port, postgres_url, moved=clock) as opened:
        await opened.site.operate(
            "from ledger.models import PriceRow\n"
            "PriceRow.objects.create(model='gpt-4o', starts_at='2020-01-01T00:00Z', request='0.01')\n"
            "key = ClientKey.objects.get()\nkey.budget, key.concurrency, key.rpm, key.burst = '1.00/total', 4, 2, 2\n"
            "key.save()"
        )
        await asyncio.sleep(1.2)
        yield opened


@pytest.fixture
def clock(tmp_path: Path) -> Path:
    path = tmp_path / "clock"
    path.write_text("0")
    return path


@asynccontextmanager
async def frozen(function: Function, emulator: Emulator, clock: Path, seconds: float) -> AsyncIterator[None]:
    """Between two invocations; the environment's monotonic clock stands still, nearly."""
    await emulator.idle()
    function.signal(signal.SIGSTOP)
    yield
    clock.write_text(str(float(clock.read_text()) + seconds))
    moved = float(clock.read_text())
    emulator.now = lambda: time.time() + moved  # type: ignore[method-assign]
    function.signal(signal.SIGCONT)


async def held(house: House) -> dict[str, Any]:
    found: dict[str, Any] = await house.site.operate(HELD)
    return found


def amounts(found: dict[str, Any]) -> tuple[Decimal, Decimal]:
    """Spent and reserved, of the only account."""
    ((spent, reserved),) = found["accounts"]
    return Decimal(spent), Decimal(reserved)


@pytest.mark.postgres
async def test_a_frozen_environment_holds_no_money_and_no_place_and_counts_with_all_others(house: House) -> None:
    assert (await house.ask(WHOLE)).status == 200
    await house.emulator.idle()
    found = await held(house)
    assert (found["modes"], found["places"], found["leases"]) == (["sql"], 0, 0)
    assert amounts(found) == (CENT, NONE)


@pytest.mark.postgres
async def test_a_limit_that_has_refilled_in_the_freeze_refuses_nobody_after_it(
    house: House, upstream: ScriptedUpstream, clock: Path
) -> None:
    while (await house.ask(WHOLE)).status == 200:
        assert len(upstream.requests) < 5
    async with frozen(house.function, house.emulator, clock, 600):
        # The database's own clock is not moved; its buckets are.
        await house.site.operate("from gateway.models import LimitBucket\nLimitBucket.objects.update(tat=0)")
    assert (await house.ask(WHOLE)).status == 200
    await house.emulator.idle()
    assert amounts(await held(house)) == (len(upstream.requests) * CENT, NONE)


async def test_the_same_of_limits_that_are_counted_without_a_database(
    tmp_path: Path, upstream: ScriptedUpstream, clock: Path
) -> None:
    config = tmp_path / "gateway.yaml"
    config.write_text("keys: {web: {existing: env:OPENAI_PROXY_KEY, rpm: 2, burst: 2}}")
    values = seed(upstream, GATEWAY_CONFIG=str(config))
    async with Emulator() as emulator, Function(tmp_path / "function", emulator, values, moved=clock) as function:
        assert [(await emulator.invoke(chat(WHOLE))).status for _ in range(3)] == [200, 200, 429]
        async with frozen(function, emulator, clock, 600):
            pass
        assert [(await emulator.invoke(chat(WHOLE))).status for _ in range(3)] == [200, 200, 429]


@pytest.mark.slow
@pytest.mark.postgres
async def test_what_others_have_spent_in_the_freeze_is_not_spent_again_after_it(
    house: House, upstream: ScriptedUpstream, clock: Path
) -> None:
    assert (await house.ask(WHOLE)).status == 200
    async with frozen(house.function, house.emulator, clock, 600):
        await house.site.operate(
            "from ledger.models import BudgetAccount, LeaseHolder\nfrom gateway.models import LimitBucket\n"
            "BudgetAccount.objects.update(spent='1.00')\nLeaseHolder.objects.all().delete()\n"
            "LimitBucket.objects.update(tat=0)"
        )
    refused = await house.ask(WHOLE)
    assert (refused.status, json.loads(refused.body)["error"]["code"]) == (429, "insufficient_quota")
    assert len(upstream.requests) == 1


@pytest.mark.slow
@pytest.mark.postgres
async def test_an_environment_that_is_killed_while_frozen_takes_nothing_along(
    house: House, upstream: ScriptedUpstream, clock: Path
) -> None:
    assert (await house.ask(WHOLE)).status == 200
    await house.emulator.idle()
    house.function.signal(signal.SIGSTOP)
    await house.function.kill()
    found = await held(house)
    assert (found["places"], found["leases"]) == (0, 0)
    assert amounts(found) == (CENT, NONE)
    assert [row["outcome"] for row in await house.site.rows(1, within=0)] == ["ok"]


@pytest.mark.postgres
async def test_what_a_killed_environment_had_set_aside_stays_so_until_it_is_charged(
    house: House, upstream: ScriptedUpstream, clock: Path
) -> None:
    upstream.enqueue([SSE_HEAD, piece(), HANG])
    delivery = house.emulator.send(house.event(STREAM))
    await asyncio.wait_for(delivery.begun.wait(), 10)
    await house.function.kill()
    swept = await house.site.operate(
        "from datetime import timedelta\nfrom django.db.models import F\nfrom ledger import leases\n"
        "from ledger.models import LeaseHolder\n"
        "LeaseHolder.objects.update(seen_at=F('seen_at') - timedelta(minutes=20))\nresult = leases.sweep()"
    )
    assert (swept, amounts(await held(house))) == (0, (NONE, CENT))
    lost = await house.site.operate(
        "from datetime import UTC, datetime, timedelta\nfrom django.db.models import F\n"
        "from ledger import leases, openrows\nfrom ledger.models import LeaseHolder\n"
        "LeaseHolder.objects.update(seen_at=F('seen_at') - timedelta(minutes=3))\n"
        "result = openrows.lose(datetime.now(UTC) + timedelta(minutes=21)), leases.sweep()"
    )
    assert lost == [1, 1]
    assert amounts(await held(house)) == (CENT, NONE)
