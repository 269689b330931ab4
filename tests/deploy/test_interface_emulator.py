"""AWS's own Runtime Interface Emulator, which comes with the SAM CLI, runs the same entry point."""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import httpx
import pytest

from tests.deploy.emulator import NULS
from tests.deploy.requests import url_event
from tests.deploy.test_gateway_on_lambda import LAST, PIECE, STREAM
from tests.deploy.test_stateless import KEY, seed
from tests.machine import sam_python
from tests.proxysite.commands import ROOT, environment
from tests.proxysite.test_server import free_port
from tests.scripted import ScriptedUpstream, sse

pytestmark = [pytest.mark.slow, pytest.mark.sam]
INVOKE = "/2015-03-31/functions/function/invocations"


def emulator(folder: Path) -> Path:
    """A copy that anybody may run."""
    python = sam_python()
    assert python is not None
    place = subprocess.run(
        [python, "-c", "import samcli; print(samcli.__path__[0])"], capture_output=True, text=True, check=True
    ).stdout.strip()
    machine = {"x86_64": "x86_64", "aarch64": "arm64"}[os.uname().machine]
    copied = folder / "rie"
    shutil.copy(Path(place) / "local" / "rapid" / f"aws-lambda-rie-{machine}", copied)
    copied.chmod(0o755)
    return copied


@asynccontextmanager
async def running(folder: Path, upstream: ScriptedUpstream, *command: str, **values: str) -> AsyncIterator[str]:
    front, api = free_port(), free_port()
    addresses = [
        *("--runtime-interface-emulator-address", f"127.0.0.1:{front}"),
        *("--runtime-api-address", f"127.0.0.1:{api}"),
    ]
    output = folder / "output.txt"
    with output.open("wb") as file:
        process = await asyncio.create_subprocess_exec(
            *(str(emulator(folder)), *addresses, *command),
            cwd=ROOT,
            env=environment(Path("/tmp/gateway-rie"), {**seed(upstream), "AWS_REGION": "eu-west-1", **values}),
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
    try:
        async with asyncio.timeout(30):
            while True:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", front)
                except OSError:
                    await asyncio.sleep(0.05)
                else:
                    writer.close()
                    break
        yield f"http://127.0.0.1:{front}{INVOKE}"
        log = output.read_text()
        assert "InvalidStateTransition" not in log, log
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


def chat() -> dict[str, object]:
    headers = {"authorization": f"Bearer {KEY}", "content-type": "application/json"}
    return url_event("/v1/chat/completions", "POST", headers, STREAM)


async def test_in_standard_mode_it_takes_streams_events_and_empty_bodies(tmp_path: Path) -> None:
    async with ScriptedUpstream() as upstream:
        upstream.default = sse(PIECE, LAST)
        async with (
            running(tmp_path, upstream, sys.executable, "-m", "proxysite.awslambda") as url,
            httpx.AsyncClient(trust_env=False, timeout=30) as http,
        ):
            for _ in range(3):
                head, nuls, body = (await http.post(url, json=chat())).content.partition(NULS)
                assert nuls == NULS
                assert json.loads(head)["statusCode"] == 200
                assert body.endswith(b"data: [DONE]\n\n")
            head, nuls, body = (await http.post(url, json=url_event("/healthz", "HEAD"))).content.partition(NULS)
            assert (json.loads(head)["statusCode"], body) == (200, b"")
            assert (await http.post(url, json={"manage": ["migrate"]})).json()["ok"] is False
