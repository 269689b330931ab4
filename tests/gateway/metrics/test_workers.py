"""/metrics of several workers: what it says, the ledger's sums and the provider's own count are the same."""

import asyncio
import os
import signal
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.gateway import golden
from tests.gateway.leaving import ASK, STREAM
from tests.gateway.metrics.scrape import Samples, parsed, value
from tests.gateway.processes import Gateway, Site
from tests.scripted import Received, Script, ScriptedUpstream, json_answer, sse

TOKEN = "metrics-token-of-four-workers"
CALLS, AT_ONCE, WORKERS = 1000, 32, 4
PRICE = """
from ledger.models import PriceRow
PriceRow.objects.create(model='gpt-4o', input='1.37', output='2.11')
"""
SUMS = """
from django.db.models import Count, Sum
sums = UsageRecord.objects.aggregate(n=Count('id'), i=Sum('tokens_in'), o=Sum('tokens_out'), c=Sum('cost'))
result = {**sums, 'c': str(sums['c']), 'outcomes': sorted(set(UsageRecord.objects.values_list('outcome', flat=True)))}
"""


def answer(received: Received) -> Script:
    if received.json().get("stream"):
        return sse(*golden.chunks("One", " two"))
    return json_answer(golden.COMPLETION)


async def call(gateway: Gateway, times: int) -> None:
    left = iter(range(times))

    async def one(http: httpx.AsyncClient) -> None:
        for number in left:
            reply = await http.post("/chat/completions", json=ASK if number % 3 else STREAM)
            assert reply.status_code == 200

    async with gateway.http(timeout=60) as http:
        await asyncio.gather(*(one(http) for _ in range(AT_ONCE)))


async def scrape(gateway: Gateway) -> tuple[Samples, str]:
    async with httpx.AsyncClient(trust_env=False, headers={"authorization": f"Bearer {TOKEN}"}, timeout=60) as http:
        reply = await http.get(f"{gateway.url}/metrics")
    assert reply.status_code == 200
    return parsed(reply.text), reply.text


def workers(gateway: Gateway) -> list[int]:
    """The serving processes: the supervisor's children but for the one that tracks shared resources."""
    children = Path(f"/proc/{gateway.process.pid}/task/{gateway.process.pid}/children").read_text().split()
    return [int(pid) for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]


async def processes(gateway: Gateway, count: int) -> None:
    async with asyncio.timeout(60):
        while value((await scrape(gateway))[0], "gateway_processes") != count:
            await asyncio.sleep(0.2)


def exact(text: str, name: str) -> Decimal:
    lines = [line for line in text.splitlines() if line.startswith((f"{name}{{", f"{name} "))]
    return sum((Decimal(line.rpartition(" ")[2]) for line in lines), Decimal(0))


@pytest.mark.slow
async def test_four_workers_sums_are_the_ledgers_and_the_providers_own_though_one_of_them_is_killed(
    tmp_path: Path, scripted: ScriptedUpstream
) -> None:
    scripted.default = answer
    async with Site(tmp_path, scripted.port) as site:
        site.values["GATEWAY_METRICS_TOKEN"] = TOKEN
        await site.operate(PRICE)
        gateway = Gateway(site, "one")
        gateway.command += ["--workers", str(WORKERS)]
        async with gateway:
            await processes(gateway, WORKERS)
            await call(gateway, CALLS // 2)
            before = workers(gateway)
            assert len(before) == WORKERS
            os.kill(before[0], signal.SIGKILL)
            await call_until_served(gateway)
            await processes(gateway, WORKERS)
            await call(gateway, CALLS // 2)
            ledger: dict[str, Any] = {}
            async with asyncio.timeout(30):
                while ledger.get("n") != len(scripted.requests):
                    ledger = await site.operate(SUMS)
            seen, text = await scrape(gateway)
            assert len(workers(gateway)) == WORKERS
            assert gateway.process.returncode is None
            gateway.signal(signal.SIGTERM)
            await gateway.ended(40)
    assert ledger["outcomes"] == ["ok"]
    assert len(scripted.requests) == CALLS
    assert value(seen, "gateway_requests_total") == len(scripted.requests) == ledger["n"]
    assert value(seen, "gateway_attempts_total", outcome="ok") == len(scripted.requests)
    assert value(seen, "gateway_tokens_total", kind="input") == ledger["i"]
    assert value(seen, "gateway_tokens_total", kind="output") == ledger["o"]
    assert exact(text, "gateway_cost_dollars_total") == Decimal(ledger["c"])
    assert value(seen, "gateway_request_duration_seconds_count") == ledger["n"]


async def call_until_served(gateway: Gateway) -> None:
    """Connections that waited at the dead worker are reset; none of them had been read."""
    async with asyncio.timeout(30):
        while await gateway.status("/healthz") != 200:
            await asyncio.sleep(0.1)
