"""scripts/smoke against a gateway that works, and against others that do not."""

import asyncio
import sys
from pathlib import Path

from tests.deploy.test_gateway_on_lambda import LAST, PIECE
from tests.deploy.test_stateless import KEY, seed
from tests.gateway import golden
from tests.proxysite.commands import ROOT, Running
from tests.proxysite.test_server import free_port
from tests.scripted import Pause, Received, Script, ScriptedUpstream, json_answer, sse


async def smoke(*arguments: str) -> tuple[int | None, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(ROOT / "scripts" / "smoke"), *arguments, stdout=-1, stderr=-1
    )
    output, _ = await asyncio.wait_for(process.communicate(), 60)
    return process.returncode, output.decode()


async def test_it_tells_a_gateway_that_works_from_one_that_does_not(tmp_path: Path) -> None:
    async with ScriptedUpstream() as upstream:
        held = 0.0

        def answer(received: Received) -> Script:
            if received.method == "GET":
                return json_answer({"object": "list", "data": []})
            if received.json().get("stream"):
                return [Pause(held), *sse(*[PIECE] * 10, LAST, gap=0.0 if held else 0.02)]
            return json_answer(golden.COMPLETION)

        upstream.default = answer
        port = free_port()
        values = seed(upstream, GATEWAY_STATELESS="1")
        async with Running(tmp_path, port, "serve", "--port", str(port), **values):
            url = f"http://127.0.0.1:{port}/v1"
            status, output = await smoke(url, KEY, "gpt-4o")
            assert (status, output.count("ok ")) == (0, 5), output
            assert "ok    wrong_key     401 invalid_api_key" in output
            held = 0.5
            status, output = await smoke(url, KEY, "gpt-4o")
            assert status == 1
            assert "something buffers" in output
            status, output = await smoke(url, "not-the-key", "gpt-4o")
            assert (status, output.count("WRONG")) == (1, 4), output
        status, output = await smoke(url, KEY, "gpt-4o")
        assert (status, output.count("WRONG")) == (1, 5), output
    assert (await smoke(url))[0] == 2
