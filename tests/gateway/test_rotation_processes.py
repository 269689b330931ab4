"""Rotation beside running gateways, each command killed on its way and run again: no request notices."""

import asyncio
import json
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.gateway import golden
from tests.gateway.processes import Gateway, Site
from tests.proxysite.commands import ROOT, ring
from tests.scripted import ScriptedUpstream, json_answer

pytestmark = pytest.mark.slow

RATE = 200  # requests a second; on a machine that cannot, as many as it can
BODY = {"model": "fast", "messages": [{"role": "user", "content": "Hi"}]}
MORE = 600  # credentials beside the one in use
COUNTS = "result = sorted(row.split('.')[1] for row in Credential.objects.values_list('sealed', flat=True))"


class Command:
    """One `manage.py` command that may be killed."""

    def __init__(self, site: Site, *arguments: str) -> None:
        self.site, self.arguments = site, arguments

    async def run(self, *, killed_after: float | None = None) -> tuple[int, str]:
        """Its status, negative where it was killed, and what it printed."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "manage.py",
            *self.arguments,
            cwd=ROOT,
            env=self.site.environment(self.site.folder),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        talking = asyncio.create_task(process.communicate())
        if killed_after is not None:
            await asyncio.sleep(killed_after)
            with suppress(ProcessLookupError):
                process.send_signal(signal.SIGKILL)
        printed, _ = await talking
        assert process.returncode is not None
        return process.returncode, printed.decode()


class Traffic:
    """Calls with a key that may be replaced on the way; their statuses are counted."""

    def __init__(self, gateway: Gateway, key: str) -> None:
        self.gateway, self.key = gateway, key
        self.statuses: Counter[int] = Counter()

    async def _call(self, http: httpx.AsyncClient) -> None:
        answer = await http.post("/chat/completions", json=BODY, headers={"authorization": f"Bearer {self.key}"})
        self.statuses[answer.status_code] += 1

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        stop = asyncio.Event()
        limits = httpx.Limits(max_connections=20)

        async def worker(http: httpx.AsyncClient) -> None:
            while not stop.is_set():
                began = time.monotonic()
                await self._call(http)
                await asyncio.sleep(max(0.0, 10 / RATE - (time.monotonic() - began)))

        async with self.gateway.http(limits=limits, timeout=20) as http:
            workers = [asyncio.create_task(worker(http)) for _ in range(10)]
            try:
                yield
            finally:
                stop.set()
                await asyncio.gather(*workers)


@pytest.fixture
async def site(tmp_path: Path, scripted: ScriptedUpstream) -> AsyncIterator[Site]:
    scripted.default = json_answer(golden.COMPLETION)
    async with Site(tmp_path, int(scripted.url.rpartition(":")[2])) as opened:
        yield opened


async def test_r50_rotate_encryption_key_killed_again_and_again_under_load_fails_no_request(
    site: Site, scripted: ScriptedUpstream
) -> None:
    await site.operate(
        "from providers.models import Credential\n"
        "globals().update(Credential=Credential, lab=Provider.objects.get())\n"
        f"rows = [Credential(provider=lab, name=f'c{{n}}', enabled=False) for n in range({MORE})]\n"
        "for row in rows: row.seal('unused-token-0123456789')\n"
        "Credential.objects.bulk_create(rows)"
    )
    site.values["GATEWAY_ENCRYPTION_KEYS"] = f"{ring('k2')},{site.values['GATEWAY_ENCRYPTION_KEYS']}"
    async with Gateway(site, "gateway") as gateway:
        traffic = Traffic(gateway, site.key)
        rewrap = Command(site, "rotate_encryption_key", "--rewrap", "--json")
        async with traffic.running():
            statuses = [(await rewrap.run(killed_after=random.uniform(0.4, 2.5)))[0] for _ in range(4)]
            status, printed = await rewrap.run()
            verified, _ = await Command(site, "rotate_encryption_key", "--verify").run()
        assert -signal.SIGKILL in statuses
        assert (status, verified) == (0, 0)
        assert json.loads(printed)["counts"] == {"k2": MORE + 1}
        assert await site.operate(COUNTS) == ["k2"] * (MORE + 1)
    assert set(traffic.statuses) == {200}
    only = site.values["GATEWAY_ENCRYPTION_KEYS"].partition(",")[0]
    site.values["GATEWAY_ENCRYPTION_KEYS"] = only
    async with Gateway(site, "again") as gateway, gateway.http(timeout=20) as http:
        assert (await http.post("/chat/completions", json=BODY)).status_code == 200
    assert {request.header("authorization") for request in scripted.requests} == {"Bearer provider-token-canary-7f3a"}


async def test_r50_rotate_client_key_killed_again_and_again_under_load_fails_no_request(site: Site) -> None:
    async with Gateway(site, "gateway") as gateway:
        traffic = Traffic(gateway, site.key)
        old = await site.operate("result = ClientKey.objects.get().id")
        rotate = Command(site, "rotate_client_key", old, "--overlap", "1h", "--json")
        keys: list[Any] = []
        async with traffic.running():
            for n in range(4):
                _, printed = await rotate.run(killed_after=random.uniform(0.4, 1.6) if n < 3 else None)
                keys += [json.loads(printed)["key"]] if printed.endswith("}\n") else []
            known = await site.operate("result = [row.id for row in ClientKey.objects.exclude(successor=None)]")
            shown = [key for key in keys if key]
            # A run that died between showing a key and its end has taken that key back with all the rest.
            (new,) = [key for key in shown if await is_known(site, key)]
            traffic.key = new
            await asyncio.sleep(1.0)
        assert known == [old]
        assert await site.operate("result = ClientKey.objects.count()") == 2
        assert set(traffic.statuses) == {200}
        rows = await site.operate("result = list(UsageRecord.objects.order_by().values_list('key_id', flat=True))")
        assert set(rows) == {old, new[6:16]}
        last = await site.operate("result = [row.key_id for row in UsageRecord.objects.order_by('-started_at')[:20]]")
        assert set(last) == {new[6:16]}


async def is_known(site: Site, token: str) -> bool:
    found: bool = await site.operate(f"result = ClientKey.objects.filter(id={token[6:16]!r}).exists()")
    return found


async def test_s16_a_revoked_key_is_refused_within_2_seconds_in_three_processes(site: Site) -> None:
    async with AsyncExitStack() as stack:
        gateways = [await stack.enter_async_context(Gateway(site, f"g{n}")) for n in range(3)]
        clients = [await stack.enter_async_context(gateway.http(timeout=20)) for gateway in gateways]

        async def statuses() -> list[int]:
            answers = await asyncio.gather(*(http.post("/chat/completions", json=BODY) for http in clients))
            return [answer.status_code for answer in answers]

        assert await statuses() == [200] * 3
        await site.operate("ClientKey.objects.update(enabled=False)")
        began = time.monotonic()
        while await statuses() != [401] * 3:
            assert time.monotonic() - began < 2.0
            await asyncio.sleep(0.02)
        assert await statuses() == [401] * 3
