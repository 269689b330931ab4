"""Four gateways in processes of their own, each call through the front door of one of them."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import httpx
import pytest

from gateway.limits.claims import Claim, Verdict
from tests.gateway import golden
from tests.gateway.leaving import ASK
from tests.gateway.limits import fleet
from tests.gateway.limits.servers import redis_server
from tests.gateway.processes import Gateway, Site
from tests.scripted import ScriptedUpstream, json_answer

pytestmark = pytest.mark.slow

# A gateway that never looks for others, and so counts in its own memory.
CUT_OUT = """
import os, sys
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "proxysite.settings")
from gateway.limits.limiter import Limiter
async def nobody(self): pass
Limiter.join = Limiter.beat = nobody
from proxysite.server import configuration, serve
sys.exit(serve(configuration(port=int(sys.argv[1]))))
"""
STORES = [
    "sqlite",
    pytest.param("postgres", marks=pytest.mark.postgres),
    pytest.param("redis", marks=pytest.mark.redis),
]


class FrontDoor:
    """One gateway; a claim's bucket says with which key it is asked."""

    def __init__(self, http: httpx.AsyncClient, keys: dict[str, str]) -> None:
        self.http = http
        self.keys = keys
        self.refused: list[httpx.Response] = []

    async def take(self, claim: Claim) -> Verdict:
        key = self.keys[claim.charges[0].bucket]
        answer = await self.http.post("/chat/completions", json=ASK, headers={"authorization": f"Bearer {key}"})
        if answer.status_code == 200:
            return Verdict()
        assert answer.status_code == 429, answer.text
        self.refused.append(answer)
        return Verdict(claim.charges[0])


@asynccontextmanager
async def four(site: Site, *, cut_out: bool = False) -> AsyncIterator[Sequence[FrontDoor]]:
    """The gateways, with a key of 600 requests a minute and a burst of 60 for each spread."""
    code = "result = {n: house.client_key(n, rpm=600, burst=60)[1] for n in %s}" % json.dumps(list(fleet.SPREADS))  # noqa: UP031
    tokens = await site.operate(code)
    keys = {f"key:{name}:r": token for name, token in tokens.items()}
    async with AsyncExitStack() as stack:
        gateways = [Gateway(site, f"g{n}") for n in range(fleet.PROCESSES)]
        for gateway in gateways:
            if cut_out:
                gateway.command = ["-c", CUT_OUT, str(gateway.port)]
        await asyncio.gather(*(stack.enter_async_context(gateway) for gateway in gateways))
        doors = [
            FrontDoor(
                await stack.enter_async_context(httpx.AsyncClient(base_url=one.url + "/v1", trust_env=False)), keys
            )
            for one in gateways
        ]
        await asyncio.sleep(2.5)  # until each has seen the pulse of the others
        yield doors


@pytest.fixture
async def site(request: pytest.FixtureRequest, tmp_path: Path, scripted: ScriptedUpstream) -> AsyncIterator[Site]:
    scripted.default = json_answer(golden.COMPLETION)
    store = getattr(request, "param", "sqlite")
    async with AsyncExitStack() as stack:
        made = Site(tmp_path, scripted.port, request.getfixturevalue("postgres_url") if store == "postgres" else "")
        if store == "redis":
            made.values["REDIS_URL"] = (await stack.enter_async_context(redis_server(tmp_path))).url
        yield await stack.enter_async_context(made)


@pytest.mark.parametrize("site", STORES, indirect=True)
@pytest.mark.parametrize("seconds", [12.0, pytest.param(90.0, marks=pytest.mark.slow)])
async def test_r42_no_minute_lets_more_than_the_limit_and_a_burst_pass_however_calls_are_spread(
    site: Site, seconds: float
) -> None:
    async with four(site) as doors:
        results = await fleet.send_all(doors, seconds)
    fleet.check(results, seconds, seen_late=0.1)
    refused = [answer for door in doors for answer in door.refused]
    assert len(refused) > 100
    for answer in refused:
        assert answer.json()["error"]["code"] == "rate_limit_exceeded"
        assert 1 <= int(answer.headers["retry-after-ms"]) <= 7000
        assert answer.headers["x-ratelimit-limit-requests"] == "600"


async def test_with_the_shared_store_cut_out_the_same_measurement_fails(site: Site) -> None:
    async with four(site, cut_out=True) as doors:
        results = await fleet.send_all(doors, 12.0)
    with pytest.raises(AssertionError, match="may pass"):
        fleet.check(results, 12.0)
