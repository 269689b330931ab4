"""The numbers of a function, in the log before the environment can be frozen, with a database or without."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.emulator import Emulator
from tests.deploy.functions import Function
from tests.deploy.test_gateway_on_lambda import LAST, PIECE, STREAM, WHOLE
from tests.deploy.test_stateless import chat, seed
from tests.gateway import golden
from tests.gateway.metrics.test_emf import checked
from tests.scripted import ScriptedUpstream, json_answer, sse


@pytest.fixture
async def upstream() -> AsyncIterator[ScriptedUpstream]:
    async with ScriptedUpstream() as scripted:
        scripted.default = json_answer(golden.COMPLETION)
        yield scripted


def metrics(log: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    return [checked(line) for line in lines if line["event"] == "metrics"]


def total(lines: list[dict[str, Any]], name: str, **labels: str) -> float:
    found = [line[name] for line in lines if name in line and labels.items() <= line.items()]
    return sum(sum(value) if isinstance(value, list) else value for value in found)


async def test_each_requests_numbers_are_in_the_log_before_the_next_poll(
    tmp_path: Path, upstream: ScriptedUpstream
) -> None:
    """The level of the other lines does not matter."""
    upstream.enqueue(sse(PIECE, LAST, golden.FRAME | {"choices": [], "usage": golden.USAGE}))
    values = seed(upstream, GATEWAY_LOG_LEVEL="error", GATEWAY_EMF_NAMESPACE="Mine")
    async with Emulator() as emulator, Function(tmp_path, emulator, values) as function:
        await emulator.invoke(chat(STREAM))
        await emulator.idle()
        first = metrics(function.log)
        await emulator.invoke(chat(WHOLE))
        await emulator.invoke(chat(WHOLE, "nobody"))
        await emulator.idle()
        lines = metrics(function.log)
    assert total(first, "gateway_requests_total", outcome="ok", provider="openai-server") == 1
    assert total(first, "gateway_time_to_first_byte_seconds") > 0
    assert total(lines, "gateway_requests_total") == 2
    assert total(lines, "gateway_tokens_total", kind="input") == 38
    assert total(lines, "gateway_tokens_total", kind="output") == 13
    assert total(lines, "gateway_errors_total", error="Unauthorized") == 1
    assert total(lines, "gateway_http_responses_total") == 3
    namespaces = {directive["Namespace"] for line in lines for directive in line["_aws"]["CloudWatchMetrics"]}
    assert namespaces == {"Mine"}


async def test_there_are_none_where_they_are_turned_off(tmp_path: Path, upstream: ScriptedUpstream) -> None:
    async with Emulator() as emulator, Function(tmp_path, emulator, seed(upstream, GATEWAY_EMF="0")) as function:
        await emulator.invoke(chat(WHOLE))
        await emulator.idle()
        assert metrics(function.log) == []
