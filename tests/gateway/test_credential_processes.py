"""Credentials over four processes on one database: tokens, end users' limits, keys of idempotency."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.gateway import golden
from tests.gateway.processes import Gateway, Site
from tests.scripted import Pause, ScriptedUpstream, json_answer

BODY = {"model": "fast", "messages": [{"role": "user", "content": "hi"}]}
PROCESSES = 4
END_USERS = 1000
LIVES = 4  # seconds of the token that is watched to its end

pytestmark = [pytest.mark.slow, pytest.mark.postgres]


class Four:
    def __init__(self, site: Site, gateways: list[Gateway], https: list[httpx.AsyncClient]) -> None:
        self.site, self.gateways, self.https = site, gateways, https

    async def post(self, number: int, token: str, path: str = "/chat/completions", **options: Any) -> httpx.Response:
        headers = {"authorization": f"Bearer {token}", **options.pop("headers", {})}
        return await self.https[number % PROCESSES].post(path, headers=headers, json=options.pop("json", BODY))

    async def mint(self, **wish: Any) -> dict[str, Any]:
        answer = await self.post(0, self.site.key, "/client_tokens", json={"end_user": "anna", **wish})
        found: dict[str, Any] = answer.json()
        return found


@pytest.fixture
async def four(tmp_path: Path, scripted: ScriptedUpstream, postgres_url: str) -> AsyncIterator[Four]:
    scripted.default = json_answer(golden.COMPLETION)
    async with AsyncExitStack() as stack:
        port = int(scripted.url.rpartition(":")[2])
        site = await stack.enter_async_context(Site(tmp_path, port, postgres_url))
        gateways = [Gateway(site, f"g{number}") for number in range(PROCESSES)]
        await asyncio.gather(*(stack.enter_async_context(gateway) for gateway in gateways))
        https = [await stack.enter_async_context(gateway.http(timeout=60)) for gateway in gateways]
        yield Four(site, gateways, https)


async def test_a_token_ends_at_its_second_and_with_its_minter_in_all_processes(four: Four) -> None:
    token = await four.mint(expires_in=LIVES)
    seen: list[tuple[int, float, float]] = []
    while time.time() < token["expires_at"] + 1.5:
        for number in range(PROCESSES):
            before = time.time()
            status = (await four.post(number, token["token"])).status_code
            seen.append((status, before, time.time()))
    good = [before for status, before, _ in seen if status == 200]
    bad = [after for status, _, after in seen if status != 200]
    assert {status for status, *_ in seen} == {200, 401}
    assert max(good) < token["expires_at"]
    assert min(bad) >= token["expires_at"]
    other = (await four.mint(expires_in=600))["token"]
    assert [(await four.post(number, other)).status_code for number in range(PROCESSES)] == [200] * PROCESSES
    key_id = four.site.key.split("-")[2]
    await four.site.operate(f"ClientKey.objects.filter(pk={key_id!r}).update(enabled=False)")
    revoked = time.monotonic()
    for number in range(PROCESSES):
        while (await four.post(number, other)).status_code == 200:
            assert time.monotonic() - revoked < 2, number


async def test_no_end_user_of_a_thousand_passes_its_limit(four: Four) -> None:
    key = await four.site.operate(
        f"result = house.client_key('many', end_user_rpm=20, rpm={END_USERS * 1000}, burst={END_USERS * 10})[1]"
    )
    resident = [_resident(gateway.process.pid) for gateway in four.gateways]
    passed: Counter[str] = Counter()
    gate = asyncio.Semaphore(48)

    async def one(user: int, turn: int) -> None:
        async with gate:
            answer = await four.post(user + turn, key, headers={"x-gateway-end-user": f"user-{user}"})
        assert answer.status_code in (200, 429), answer.text
        passed[f"user-{user}"] += answer.status_code == 200

    began = time.monotonic()
    await asyncio.gather(*(one(user, turn) for turn in range(8) for user in range(END_USERS)))
    # A stroke of two (a tenth of a minute's), and one more each three seconds.
    most = 2 + (time.monotonic() - began) / 3
    assert len(passed) == END_USERS
    assert max(passed.values()) <= most
    assert min(passed.values()) >= 1
    grown = [_resident(gateway.process.pid) - before for gateway, before in zip(four.gateways, resident, strict=True)]
    assert max(grown) < 64 * 1024, grown  # KiB


async def test_r45_twenty_equal_requests_over_four_processes_are_one_call(
    four: Four, scripted: ScriptedUpstream
) -> None:
    scripted.enqueue([Pause(0.5), *json_answer(golden.COMPLETION)])
    headers = {"idempotency-key": "once"}
    found = await asyncio.gather(*(four.post(number, four.site.key, headers=headers) for number in range(20)))
    assert Counter(answer.status_code for answer in found) == {200: 1, 409: 19}
    again = [await four.post(number, four.site.key, headers=headers) for number in range(20)]
    [first] = [answer for answer in found if answer.status_code == 200]
    assert {(answer.status_code, answer.content) for answer in again} == {(200, first.content)}
    assert len(scripted.requests) == 1


def _resident(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1])
