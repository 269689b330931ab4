"""Logs, metrics, traces and captured payloads that are off cost a request nothing: none of their code runs."""

import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from django.test import override_settings

import gateway
from tests.gateway import golden, house
from tests.gateway.house import Door
from tests.scripted import ScriptedUpstream, json_answer, sse

ROOM = str(Path(gateway.__file__).parent)
OBSERVERS = tuple(f"{ROOM}/{name}" for name in ("access.py", "metrics/", "tracing/", "capturing.py"))
WRITERS = ("/structlog/", "/logging/")  # who writes a line
CLIENT = ("/httpx/", "/httpcore/")  # that of the test writes lines too
ASK: dict[str, Any] = {"model": "fast", "messages": [{"role": "user", "content": "Hello!"}]}
OFF = {"GATEWAY_ACCESS_LOG": False, "GATEWAY_CAPTURE": False, "GATEWAY_METRICS_TOKEN": "", "GATEWAY_METRICS_FROM": []}
ON = {"GATEWAY_ACCESS_LOG": True, "GATEWAY_CAPTURE": True, "GATEWAY_METRICS_TOKEN": "t" * 32}


def among(parts: tuple[str, ...], name: str) -> bool:
    return any(part in name for part in parts)


@contextmanager
def watched() -> Iterator[set[str]]:
    """The names of the observers' functions that this thread, which is the event loop's, enters."""
    entered: set[str] = set()

    def see(frame: FrameType, event: str, argument: object) -> None:
        name, caller = frame.f_code.co_filename, frame.f_back
        if event != "call" or not (name.startswith(OBSERVERS) or among(WRITERS, name)):
            return
        while caller is not None and among(WRITERS, caller.f_code.co_filename):
            caller = caller.f_back
        if caller is None or not among(CLIENT, caller.f_code.co_filename):
            entered.add(f"{name.removeprefix(ROOM + '/')}:{frame.f_code.co_name}")

    sys.setprofile(see)
    try:
        yield entered
    finally:
        sys.setprofile(None)


@pytest.fixture
async def door(
    request: pytest.FixtureRequest, transactional_db: None, tmp_path: Path, scripted: ScriptedUpstream
) -> AsyncIterator[Door]:
    def configure() -> str:
        house.alias("fast", (house.provider("lab", scripted.url + "/v1"), "gpt-4o"))
        return house.client_key()[1]

    with override_settings(**request.param):
        async with house.open_house(configure, tmp_path) as opened:
            yield opened


async def seen(door: Door, scripted: ScriptedUpstream, *, stream: bool) -> set[str]:
    async with door.http() as http:
        for looked_at in (False, True):  # what runs once only is over with the first request
            scripted.enqueue(sse(*golden.chunks("Hi")) if stream else json_answer(golden.COMPLETION))
            with watched() as entered:
                answer = await http.post("/chat/completions", json={**ASK, "stream": stream})
                await door.rows(1 + looked_at)
            assert answer.status_code == 200
    return entered


@pytest.mark.parametrize("door", [OFF], indirect=True, ids=["off"])
@pytest.mark.parametrize("stream", [False, True])
async def test_of_what_is_off_no_function_is_entered(door: Door, scripted: ScriptedUpstream, stream: bool) -> None:
    assert await seen(door, scripted, stream=stream) == set()


@pytest.mark.parametrize("door", [ON], indirect=True, ids=["on"])
async def test_what_is_on_is_seen(door: Door, scripted: ScriptedUpstream) -> None:
    entered = await seen(door, scripted, stream=False)
    assert {
        "access.py:write",
        "capturing.py:begin",
        "metrics/meters.py:settled",
        "metrics/meters.py:answered",
    } <= entered
    assert any("/structlog/" in name for name in entered)
