"""No database at all: the seed's variables, a key, a stream, and its account in the log."""

import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from providers import keys
from tests.deploy.emulator import Emulator
from tests.deploy.functions import Function
from tests.deploy.requests import url_event
from tests.deploy.test_gateway_on_lambda import LAST, PIECE, STREAM, WHOLE
from tests.gateway import golden
from tests.proxysite.commands import Running, manage, production
from tests.proxysite.test_server import free_port
from tests.scripted import ScriptedUpstream, json_answer, sse

KEY = "an-Own-Key-From-2019-q7Zr4"


@pytest.fixture
async def upstream() -> AsyncIterator[ScriptedUpstream]:
    async with ScriptedUpstream() as scripted:
        scripted.default = json_answer(golden.COMPLETION)
        yield scripted


def seed(upstream: ScriptedUpstream, **more: str) -> dict[str, str]:
    """The seed's three variables; a provider on this machine has to be permitted."""
    return {
        "OPENAI_SERVER_URL": upstream.url,
        "OPENAI_SERVER_KEY": "provider-token-canary-7f3a",
        "OPENAI_PROXY_KEY": KEY,
        "GATEWAY_PRIVATE_UPSTREAMS": f"127.0.0.1:{upstream.port}",
        **more,
    }


def chat(body: bytes, key: str = KEY) -> dict[str, Any]:
    headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
    return url_event("/v1/chat/completions", "POST", headers, body)


def usage(log: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    return [line for line in lines if line["event"] == "usage"]


async def test_with_the_seeds_variables_alone_the_first_request_streams_and_is_in_the_log(
    tmp_path: Path, upstream: ScriptedUpstream
) -> None:
    upstream.enqueue(sse(PIECE, LAST, golden.FRAME | {"choices": [], "usage": golden.USAGE}))
    seen: list[list[dict[str, Any]]] = []
    async with Emulator() as emulator, Function(tmp_path, emulator, seed(upstream)) as function:

        def answer(received: Any) -> Any:
            seen.append(usage(function.log))
            return json_answer(golden.COMPLETION)

        upstream.default = answer
        streamed = await emulator.invoke(chat(STREAM))
        whole = await emulator.invoke(chat(WHOLE))
        unknown = [await emulator.invoke(chat(WHOLE, key)) for key in ("", "nobody", KEY + "x", keys.mint().token)]
        pages = [(await emulator.invoke(url_event(path))).status for path in ("/admin/", "/admin/login/", "/readyz")]
        command = json.loads((await emulator.invoke({"manage": ["migrate"]})).raw)
        log = function.log
    assert streamed.streamed
    assert (streamed.status, whole.status) == (200, 200)
    assert streamed.body.endswith(b"data: [DONE]\n\n")
    assert upstream.requests[0].header("authorization") == "Bearer provider-token-canary-7f3a"
    assert [delivery.status for delivery in unknown] == [401] * 4
    assert pages == [404, 404, 200]
    assert command == {"ok": False, "error": "There is no database here: set DATABASE_URL first."}
    lines = usage(log)
    assert [line["state"] for line in lines] == ["open", "settled"] * 2
    # When the provider got the second call, its line was out already.
    assert [[line["state"] for line in lines] for lines in seen] == [["open"], ["open", "settled", "open"]]
    assert (lines[1]["outcome"], lines[1]["tokens_in"], lines[1]["tokens_out"]) == ("ok", 19, 3)
    assert lines[1]["id"] == lines[0]["id"] != lines[2]["id"]
    assert (lines[1]["key_name"], lines[1]["provider"]) == ("OPENAI_PROXY_KEY", "openai-server")
    for secret in (KEY, "provider-token-canary-7f3a"):
        assert secret not in log


@pytest.mark.parametrize("weak", ["sk-1234", "example-key-example-key", ""])
async def test_a_key_that_anyone_can_guess_is_refused_with_a_fresh_one(
    tmp_path: Path, upstream: ScriptedUpstream, weak: str
) -> None:
    async with Emulator() as emulator:
        function = Function(tmp_path, emulator, seed(upstream, OPENAI_PROXY_KEY=weak))
        with pytest.raises(AssertionError):
            await function.__aenter__()
        await function.__aexit__()
        assert emulator.init_error is not None
        message = emulator.init_error["errorMessage"]
    assert message.startswith("Refusing to start:\n- OPENAI_PROXY_KEY is ")
    assert re.search(r"made just now: sk-gw-\w+-\w{40,}$", message)
    assert function.process.returncode == 1


async def test_a_budget_in_the_file_is_refused_with_a_clear_line(tmp_path: Path, upstream: ScriptedUpstream) -> None:
    config = tmp_path / "gateway.yaml"
    config.write_text("keys: {web: {existing: env:OPENAI_PROXY_KEY, budget: 5.00/month}}")
    async with Emulator() as emulator:
        function = Function(tmp_path, emulator, seed(upstream, GATEWAY_CONFIG=str(config)))
        with pytest.raises(AssertionError):
            await function.__aenter__()
        await function.__aexit__()
        assert emulator.init_error is not None
        assert (
            "keys.web.budget: a budget needs a database: set DATABASE_URL, or take this out"
            in emulator.init_error["errorMessage"]
        )


async def test_the_same_mode_serves_on_a_port(tmp_path: Path, upstream: ScriptedUpstream) -> None:
    values = seed(upstream, GATEWAY_STATELESS="1")
    port = free_port()
    async with Running(tmp_path, port, "serve", "--port", str(port), **values) as running:
        answer = await running.ask(
            "POST", "/v1/chat/completions", f"Authorization: Bearer {KEY}", "Content-Type: application/json", body=WHOLE
        )
        assert answer is not None
        assert answer.status == 200
        admin = await running.ask("GET", "/admin/")
        assert admin is not None
        assert admin.status == 404
        log = running.output.read_text()
    assert [line["state"] for line in usage(log)] == ["open", "settled"]


async def test_a_weak_key_is_refused_on_a_port_too(tmp_path: Path, upstream: ScriptedUpstream) -> None:
    done, _ = manage(
        tmp_path,
        "serve",
        "--port",
        str(free_port()),
        **seed(upstream, GATEWAY_STATELESS="1", OPENAI_PROXY_KEY="sk-1234"),
    )
    assert done.returncode != 0
    assert re.search(r"made just now: sk-gw-\w+-\w{40,}", done.stderr)


async def test_sqlite_is_refused_on_lambda(tmp_path: Path, upstream: ScriptedUpstream) -> None:
    values = seed(upstream, **production(DATABASE_URL=f"sqlite:///{tmp_path}/gateway.sqlite3"))
    async with Emulator() as emulator:
        function = Function(tmp_path, emulator, values)
        with pytest.raises(AssertionError):
            await function.__aenter__()
        await function.__aexit__()
        assert emulator.init_error is not None
        assert "DATABASE_URL is a SQLite file, which AWS Lambda does not keep" in emulator.init_error["errorMessage"]


async def test_a_key_whose_parameter_cannot_be_read_is_named(tmp_path: Path, upstream: ScriptedUpstream) -> None:
    aws = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_ENDPOINT_URL_SSM": "http://127.0.0.1:9"}
    async with Emulator() as emulator:
        function = Function(tmp_path, emulator, seed(upstream, OPENAI_PROXY_KEY="ssm:/gw/key", **aws))
        with pytest.raises(AssertionError):
            await function.__aenter__()
        await function.__aexit__()
        assert emulator.init_error is not None
        message = emulator.init_error["errorMessage"]
    assert message == "Refusing to start:\n- OPENAI_PROXY_KEY ssm does not answer: ConnectionRefusedError."
