"""Gateways in processes of their own: how fast a hit is, what is left after `kill -9`, what a purge reaches."""

import asyncio
import signal
import socket
import statistics
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.gateway import golden
from tests.gateway.leaving import request
from tests.gateway.limits.servers import redis_server
from tests.gateway.processes import Gateway, Site
from tests.scripted import ScriptedUpstream, json_answer, sse

pytestmark = pytest.mark.slow

ASK: dict[str, Any] = {"model": "fast", "messages": [{"role": "user", "content": "Hello!"}]}
STREAM = {**ASK, "stream": True}


@pytest.fixture
async def site(tmp_path: Path, scripted: ScriptedUpstream) -> AsyncIterator[Site]:
    async with Site(tmp_path, scripted.port) as made:
        yield made


async def turn_on(site: Site, store: str = "memory") -> None:
    await site.operate(f"result = ModelAlias.objects.filter(name='fast').update(cache='on', cache_store='{store}')")


async def state(http: httpx.AsyncClient, body: dict[str, Any] = ASK) -> str:
    answer = await http.post("/chat/completions", json=body)
    assert answer.status_code == 200, answer.text
    return str(answer.headers["x-gateway-cache"])


def times(gateway: Gateway, body: dict[str, Any], count: int) -> list[float]:
    """Of `count` hits, seconds from the first byte sent to the last received, on one connection."""
    data = request(gateway, body)
    found = []
    with socket.create_connection(("127.0.0.1", gateway.port)) as sock:
        for _ in range(count):
            began = time.perf_counter()
            sock.sendall(data)
            got = b""
            while b"\r\n\r\n" not in got:
                got += sock.recv(2**16)
            head, _, rest = got.partition(b"\r\n\r\n")
            length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            while len(rest) < length:
                rest += sock.recv(2**16)
            found.append(time.perf_counter() - began)
            assert b"x-gateway-cache: hit" in head
    return found


async def test_a_hit_takes_less_than_two_milliseconds_at_the_median(site: Site, scripted: ScriptedUpstream) -> None:
    await turn_on(site)
    scripted.default = sse(*golden.chunks(*["word "] * 100))
    async with Gateway(site, "one") as gateway, gateway.http() as http:
        medians = []
        for body in (STREAM, {**ASK, "seed": 1}):
            if body is not STREAM:
                scripted.default = json_answer(golden.COMPLETION)
            assert await state(http, body) == "miss"
            medians.append(statistics.median(await asyncio.to_thread(times, gateway, body, 500)))
    print("median of a hit (ms): stream of 103 events, whole:", [f"{one * 1000:.2f}" for one in medians])  # noqa: T201
    assert max(medians) < 0.002


@pytest.mark.parametrize("store", ["redis", "database"])
async def test_what_one_process_has_kept_another_gives_though_the_first_was_killed(
    site: Site, scripted: ScriptedUpstream, tmp_path: Path, store: str
) -> None:
    await turn_on(site, "shared")
    scripted.default = json_answer(golden.COMPLETION)
    async with redis_server(tmp_path) as redis:
        if store == "redis":
            site.values["REDIS_URL"] = redis.url
        async with Gateway(site, "one") as one, one.http() as http:
            for n in range(200):
                assert await state(http, {**ASK, "seed": n}) == "miss"
            under_way = [asyncio.create_task(state(http, {**ASK, "seed": 1000 + n})) for n in range(20)]
            await asyncio.sleep(0.6)
            one.signal(signal.SIGKILL)
            await asyncio.gather(*under_way, return_exceptions=True)
        async with Gateway(site, "two") as two, two.http() as http:
            states = [await state(http, {**ASK, "seed": n}) for n in range(200)]
            assert states.count("hit") == 200
            answer = await http.post("/chat/completions", json={**ASK, "seed": 7})
            assert answer.json() == golden.COMPLETION


async def test_a_purge_reaches_every_process_within_two_seconds(site: Site, scripted: ScriptedUpstream) -> None:
    await turn_on(site)
    scripted.default = json_answer(golden.COMPLETION)
    async with Gateway(site, "one") as one, Gateway(site, "two") as two, one.http() as first, two.http() as second:
        assert [await state(http) for http in (first, second, first, second)] == ["miss", "miss", "hit", "hit"]
        await site.operate("from providers import purging; purging.purge('all'); result = 1")
        await asyncio.sleep(2)
        assert [await state(http) for http in (first, second)] == ["miss", "miss"]


async def test_very_many_distinct_answers_leave_the_process_at_its_size(site: Site, scripted: ScriptedUpstream) -> None:
    """50,000 bytes each: after 200 MB memory is full many times over, and no more is held than before."""
    await turn_on(site, "shared")
    site.values.update(GATEWAY_CACHE_MEMORY="16", GATEWAY_CACHE_DATABASE="32")
    choice = {**golden.COMPLETION["choices"][0], "message": {"role": "assistant", "content": "x" * 50_000}}
    scripted.default = json_answer({**golden.COMPLETION, "choices": [choice]})
    sizes = []
    async with Gateway(site, "one") as gateway, gateway.http(timeout=60) as http:
        for round_ in range(8):
            for start in range(0, 500, 20):
                await asyncio.gather(*(state(http, {**ASK, "seed": round_ * 1000 + start + n}) for n in range(20)))
            sizes.append(_resident(gateway.process.pid))
    print("resident (MiB) after each 25 MB:", [size // 2**20 for size in sizes])  # noqa: T201
    assert max(sizes) < 350 * 2**20
    assert sizes[-1] < sizes[2] * 1.2


def _resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096
