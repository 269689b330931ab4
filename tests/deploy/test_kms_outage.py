"""Providers' tokens under a key that only KMS unwraps, and KMS away: what a client is told, and for how long."""

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from providers.keychain import wrapped_entry
from tests.canaries import PROVIDER_TOKEN
from tests.deploy.emulator import Delivery, Emulator
from tests.deploy.functions import Function, House
from tests.deploy.test_gateway_on_lambda import STREAM, WHOLE
from tests.gateway import golden
from tests.gateway.processes import Site
from tests.providers.test_awscalls import ROLE
from tests.providers.test_keychain import KEY, FakeKMS, kms
from tests.scripted import ScriptedUpstream, json_answer

__all__ = ["kms"]


@pytest.fixture
async def upstream() -> AsyncIterator[ScriptedUpstream]:
    async with ScriptedUpstream() as scripted:
        scripted.default = json_answer(golden.COMPLETION)
        yield scripted


class Hours:
    """The wall clock of a function, which a test sets forward."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "clock"
        self.file.write_text("0")
        self.house: House | None = None

    def set(self, seconds: float) -> None:
        self.file.write_text(str(seconds))
        assert self.house is not None
        self.house.emulator.now = lambda: time.time() + seconds  # type: ignore[method-assign]


@pytest.fixture
async def site(tmp_path: Path, upstream: ScriptedUpstream, kms: FakeKMS) -> AsyncIterator[Site]:
    """What an operator has set up while KMS answered: a token that is sealed under its key."""
    made = Site(tmp_path, upstream.port)
    url = f"http://127.0.0.1:{kms.server_port}"
    made.values |= {**ROLE, "AWS_REGION": "eu-west-1", "AWS_ENDPOINT_URL_KMS": url, "DJANGO_DEBUG": "1"}
    made.values["GATEWAY_ENCRYPTION_KEYS"] = await asyncio.to_thread(wrapped_entry, "k7", KEY)
    async with made:
        yield made


@asynccontextmanager
async def begun(site: Site, hours: Hours) -> AsyncIterator[House]:
    async with (
        Emulator() as emulator,
        Function(site.folder / "function", emulator, site.values, moved=hours.file) as function,
    ):
        hours.house = House(site, emulator, function)
        yield hours.house


def refused(delivery: Delivery, site: Site, house: House) -> None:
    """A 503 in OpenAI's shape which says when to come again; of the reason only the operator's log knows."""
    assert delivery.status == 503
    assert json.loads(delivery.body) == {
        "error": {
            "message": "The model `fast` has no route that is enabled and has a credential.",
            "type": "service_unavailable_error",
            "param": None,
            "code": "no_route",
        }
    }
    assert (delivery.header("content-type"), delivery.header("retry-after")) == ("application/json", "30")
    seen = json.dumps(delivery.answer).encode() + delivery.body
    for secret in (b"k7", b"kms", b"KMS", site.values["GATEWAY_ENCRYPTION_KEYS"][-40:].encode()):
        assert secret not in seen
    assert "the encryption key k7 cannot be unwrapped" in house.function.log
    assert PROVIDER_TOKEN not in house.function.log


@pytest.mark.parametrize("body", [WHOLE, STREAM], ids=["whole", "streamed"])
async def test_a_function_that_starts_while_kms_fails_says_503_and_serves_once_kms_is_back(
    site: Site, kms: FakeKMS, upstream: ScriptedUpstream, tmp_path: Path, body: bytes
) -> None:
    kms.failing = True
    async with begun(site, hours := Hours(tmp_path)) as house:
        refused(await house.ask(body), site, house)
        assert "KMS does not decrypt it: KMSInternalException" in house.function.log
        kms.failing = False
        hours.set(61)
        assert (await house.ask(WHOLE)).status == 200
    assert [request.header("authorization") for request in upstream.requests] == [f"Bearer {PROVIDER_TOKEN}"]


async def test_of_an_outage_under_five_minutes_a_running_function_lets_nobody_notice_anything(
    site: Site, kms: FakeKMS, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    async with begun(site, hours := Hours(tmp_path)) as house:
        assert (await house.ask(WHOLE)).status == 200
        kms.failing = True
        before = kms.asked.count("Decrypt")
        hours.set(270)
        assert (await house.ask(WHOLE)).status == 200
        assert kms.asked.count("Decrypt") == before + 1
        hours.set(400)
        refused(await house.ask(WHOLE), site, house)
        kms.failing = False
        hours.set(470)
        assert (await house.ask(WHOLE)).status == 200
    assert len(upstream.requests) == 3


@pytest.mark.slow
async def test_a_kms_that_is_silent_keeps_a_client_waiting_for_seconds_and_not_for_ever(
    site: Site, kms: FakeKMS, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    await site.operate(f"house.provider('another', {site.upstream!r})")
    async with begun(site, hours := Hours(tmp_path)) as house:
        assert (await house.ask(WHOLE)).status == 200
        kms.silent = threading.Event()
        try:
            hours.set(400)
            delivery = await house.ask(WHOLE)
            refused(delivery, site, house)
            # However many tokens there are, one is waited for.
            assert 4.9 < delivery.ended < 9
            assert "KMS does not decrypt it" not in house.function.log
            assert "kms does not answer: TimeoutError" in house.function.log
        finally:
            kms.silent.set()
        kms.silent = None
        hours.set(470)
        assert (await house.ask(WHOLE)).status == 200
    assert len(upstream.requests) == 2
