"""Vercel's AI SDK and LangChain in front, providers with their own ways behind: cases 15, 16, 18 and 40."""

import asyncio
import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.clients import node
from tests.clients.served import Gateway, Servers
from tests.gateway import golden
from tests.scripted import Received, ScriptedUpstream, Step, json_answer, sse

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.slow]

CONFIGURATION = """
providers:
  lab:
    dialect: openai
    base_url: "{lab}/v1"
    credentials: {{main: env:LAB_KEY}}
    quirks: {{token_ids: false, reasoning: reasoning_content, fixups: [empty_choices]}}
aliases:
  "*": {{routes: [{{provider: lab}}]}}
"""
USED = {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12}
CALL = {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city":"Paris"}'}}
PIECES = [
    {**CALL, "function": {"name": "get_weather", "arguments": text}, "index": 0} for text in ('{"city":', '"Paris"}')
]


def grown(*tokens: int) -> list[dict[str, Any]]:
    return [{**USED, "completion_tokens": count, "total_tokens": 9 + count} for count in tokens]


chunk = golden.chunk
START = chunk({"role": "assistant", "content": ""})
# One script for each way of a provider, by the name of the model.
MODELS: dict[str, list[Step]] = {
    "plain": sse(START, chunk({"content": "Hel"}), chunk({"content": "lo"}), chunk({}, "stop"),
                 {**golden.FRAME, "choices": [], "usage": USED}),
    "no-role": sse(chunk({"content": "Hel"}), chunk({"content": "lo"}), chunk({}, "stop", usage=USED)),
    "usage-in-every-chunk": sse(*(chunk({"content": text}, usage=usage)
                                  for text, usage in zip(("Hel", "lo"), grown(1, 2), strict=True)),
                                chunk({}, "stop", usage=USED)),
    "filter-results-first": sse({"choices": [], "id": "", "model": "", "prompt_filter_results": []}, START,
                                chunk({"content": "Hello"}), chunk({}, "stop", usage=USED)),
    "another-ending": sse(START, chunk({"content": "Hello"}), chunk({}, "eos_token", usage=USED)),
    "error-null": sse(START, chunk({"content": "Hello"}, error=None), chunk({}, "stop", usage=USED, error=None)),
    "reasoning": sse(chunk({"role": "assistant", "reasoning": "Hm."}), chunk({"content": "Hello"}),
                     chunk({}, "stop", usage=USED)),
    "tools-without-index": sse(START, chunk({"tool_calls": [CALL]}), chunk({}, "tool_calls", usage=USED)),
    "tools-repeated": sse(START, *(chunk({"tool_calls": [piece]}) for piece in PIECES),
                          chunk({}, "tool_calls", usage=USED)),
    "tools-object": sse(START, chunk({"tool_calls": [{**CALL, "index": 0, "function": {
                                      "name": "get_weather", "arguments": {"city": "Paris"}}}]}),
                        chunk({}, "tool_calls", usage=USED)),
    "json": json_answer(golden.COMPLETION),
    "boom": sse(START, chunk({"content": "Hel"}), {"error": "boom"}, done=False),
}  # fmt: skip
HELLO = [name for name in MODELS if not name.startswith("tools") and name not in ("json", "boom")]
TOOLS = [name for name in MODELS if name.startswith("tools")]


def provider(request: Received) -> list[Step]:
    ask = request.json()
    if request.target == "/v1/embeddings":
        return json_answer(golden.EMBEDDINGS)
    if ask["model"] == "refused":
        return json_answer({"detail": "That will not do."}, status=422)
    return MODELS.get(ask["model"], json_answer(golden.COMPLETION))


@pytest_asyncio.fixture(loop_scope="session", scope="module")
async def beyond(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Gateway]:
    async with ScriptedUpstream() as lab, AsyncExitStack() as stack:
        lab.default = provider
        text = CONFIGURATION.format(lab=lab.url)
        yield await Servers(tmp_path_factory.mktemp("libraries"), stack, text).get("uvicorn")


def environment(gateway: Gateway) -> dict[str, str]:
    return {"GATEWAY_URL": gateway.url, "GATEWAY_KEY": gateway.key, "MODELS": json.dumps(list(MODELS))}


@pytest_asyncio.fixture(loop_scope="session", scope="module")
async def ai_sdk(beyond: Gateway, request: pytest.FixtureRequest) -> dict[str, Any]:
    assert request.config.cache is not None
    folder = await asyncio.to_thread(node.installed, request.config.cache, "aisdk")
    program = str(folder / "node_modules/node/bin/node")
    said: dict[str, Any] = json.loads(await node.run(folder, "aisdk.mjs", program, **environment(beyond)))
    return said


def langchain_python(cache: pytest.Cache) -> Path:
    """The interpreter of an environment with what the lock in tests/clients/langchain says, made once."""
    lock = node.HERE / "langchain/requirements.txt"
    shelf = cache.mkdir("python_packages")
    folder = shelf / f"langchain-{hashlib.sha256(lock.read_bytes()).hexdigest()[:12]}"
    if not folder.exists():
        fresh = Path(tempfile.mkdtemp(dir=shelf))
        try:
            subprocess.run([sys.executable, "-m", "venv", str(fresh)], check=True, timeout=60)
            install = ["-m", "pip", "install", "-q", "--require-hashes", "-r", str(lock)]
            subprocess.run([str(fresh / "bin/python"), *install], check=True, timeout=300)
            fresh.rename(folder)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
    return folder / "bin/python"


@pytest_asyncio.fixture(loop_scope="session", scope="module")
async def langchain(beyond: Gateway, request: pytest.FixtureRequest) -> dict[str, Any]:
    assert request.config.cache is not None
    python = await asyncio.to_thread(langchain_python, request.config.cache)
    process = await asyncio.create_subprocess_exec(
        *(str(python), str(node.HERE / "langchain/says.py")),
        env=node.environment(**environment(beyond)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    said: dict[str, Any] = json.loads(out)
    return said


@pytest.mark.node
async def test_case_15_and_16_the_ai_sdk_reads_every_providers_stream(ai_sdk: dict[str, Any]) -> None:
    for name in HELLO:
        heard = ai_sdk[name]
        assert (name, heard["text"], heard["finish"], heard["usage"]) == (name, "Hello", "stop", [9, 3])
        assert heard["errors"] == 0
    assert ai_sdk["reasoning"]["reasoning"] == "Hm."
    assert ai_sdk["json"]["text"] == ai_sdk["whole"] == golden.COMPLETION["choices"][0]["message"]["content"]


@pytest.mark.node
async def test_case_15_the_ai_sdk_reads_every_providers_tool_calls(ai_sdk: dict[str, Any]) -> None:
    for name in TOOLS:
        assert (name, ai_sdk[name]["calls"]) == (name, [["get_weather", {"city": "Paris"}]])
        assert ai_sdk[name]["finish"] == "tool-calls"


@pytest.mark.node
async def test_case_18_34_and_40_the_ai_sdk_is_told_what_went_wrong_and_gets_its_numbers(
    ai_sdk: dict[str, Any],
) -> None:
    assert ai_sdk["boom"] == {"text": "Hel", "failed": ["boom"]}
    assert ai_sdk["refused"] == {"status": 422, "message": "That will not do."}
    assert ai_sdk["embedding"] == [0.25, -0.5, 1.0]


async def test_case_15_and_16_langchain_reads_every_providers_stream_and_counts_it_once(
    langchain: dict[str, Any],
) -> None:
    for name in HELLO:
        heard = langchain[name]
        assert (name, heard["text"], heard["finish"], heard["usage"]) == (name, "Hello", "stop", 12)
    for name in TOOLS:
        assert (name, langchain[name]["calls"]) == (name, [["get_weather", {"city": "Paris"}]])
        assert langchain[name]["usage"] == 12
    assert langchain["json"]["text"] == langchain["whole"] == golden.COMPLETION["choices"][0]["message"]["content"]


async def test_case_18_and_40_langchain_raises_the_providers_error_and_gets_its_numbers(
    langchain: dict[str, Any],
) -> None:
    assert langchain["boom"]["raised"] == "APIError"
    assert "boom" in langchain["boom"]["message"]
    assert langchain["embedding"] == [0.25, -0.5, 1.0]
