"""The image that `scripts/image` builds without Docker, run as it is on Lambda: another root, nobody's user."""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import httpx
import pytest

from tests.deploy.emulator import Emulator
from tests.deploy.requests import url_event
from tests.deploy.test_gateway_on_lambda import LAST, PIECE
from tests.deploy.test_interface_emulator import INVOKE, chat, emulator
from tests.deploy.test_stateless import KEY, seed
from tests.proxysite.commands import ROOT
from tests.proxysite.test_server import free_port
from tests.scripted import ScriptedUpstream, sse

pytestmark = [pytest.mark.slow, pytest.mark.builder]
TAG = "localhost/llm-gateway:tested"
NOBODY = "65532"


def buildah(*arguments: str) -> str:
    done = subprocess.run(["buildah", *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture(scope="module")
def root() -> Iterator[Path]:
    """The image's files, as they lie in a container's root."""
    subprocess.run([str(ROOT / "scripts" / "image"), TAG], check=True, capture_output=True, timeout=600)
    container = buildah("from", "--pull-never", TAG)
    try:
        yield Path(buildah("mount", container))
    finally:
        buildah("rm", container)


@asynccontextmanager
async def inside(root: Path, output: Path, *command: str, user: str = NOBODY, **values: str) -> AsyncIterator[None]:
    """A process in the image's root as that user, ended with all that it has started."""
    with output.open("wb") as file:
        process = await asyncio.create_subprocess_exec(
            *("/usr/sbin/chroot", f"--userspec={user}:{user}", str(root), *command),
            env={"PATH": "/opt/venv/bin:/usr/bin:/bin", "PYTHONPATH": "/app", "PYTHONDONTWRITEBYTECODE": "1", **values},
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
    try:
        yield
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


async def test_it_streams_as_nobody_and_can_write_nowhere_in_its_own_files(root: Path, tmp_path: Path) -> None:
    output = tmp_path / "output.txt"
    async with ScriptedUpstream() as upstream, Emulator() as runtime_api:
        upstream.default = sse(*[PIECE] * 5, LAST, gap=0.1)
        values = runtime_api.environment(AWS_REGION="eu-west-1", **seed(upstream))
        async with inside(root, output, "/app/entrypoint", **values):
            await runtime_api.idle()
            delivery = await runtime_api.invoke(chat())
            page = await runtime_api.invoke(url_event("/static/ninja/swagger-ui.css"))
    arrived = [at for at, data in delivery.body_chunks if b'"content"' in data]
    for number, at in enumerate(arrived):
        assert abs(at - arrived[0] - number * 0.1) < 0.03
    assert len(arrived) == 5
    assert (page.status, page.header("content-type")) == (200, 'text/css; charset="utf-8"')
    async with inside(root, output, "/bin/sh", "-c", "touch /app/x /opt/venv/x /usr/x; id -u"):
        await asyncio.sleep(0.5)
    said = output.read_text()
    assert said.count("Permission denied") == 3
    assert said.strip().endswith(NOBODY)


async def test_it_serves_on_a_port_too(root: Path, tmp_path: Path) -> None:
    port = free_port()
    async with ScriptedUpstream() as upstream:
        upstream.default = sse(PIECE, LAST)
        values = seed(upstream, GATEWAY_STATELESS="1")
        async with (
            inside(root, tmp_path / "output.txt", "/app/entrypoint", "serve", "--port", str(port), **values),
            httpx.AsyncClient(trust_env=False, base_url=f"http://127.0.0.1:{port}") as http,
        ):
            async with asyncio.timeout(30):
                while True:
                    with suppress(httpx.TransportError):
                        if (await http.get("/readyz")).status_code == 200:
                            break
                    await asyncio.sleep(0.1)
            body = json.loads(str(chat()["body"]))
            answer = await http.post("/v1/chat/completions", json=body, headers={"authorization": f"Bearer {KEY}"})
    assert (answer.status_code, answer.text.endswith("data: [DONE]\n\n")) == (200, True)


def test_it_holds_bytecode_of_everything_and_no_compiler_installer_or_cache(root: Path) -> None:
    library = next((root / "usr" / "lib").glob("python3.*/asyncio"))
    for folder in (library, root / "app" / "gateway", *root.glob("opt/venv/lib/python3.*/site-packages/django")):
        sources = {path.stem for path in folder.glob("*.py")}
        compiled = {path.name.partition(".")[0] for path in (folder / "__pycache__").glob("*.pyc")}
        assert sources <= compiled, folder
    for absent in ("usr/bin/gcc", "usr/bin/cc", "root/.cache", "opt/venv/bin/pip", "app/tests", "app/data"):
        assert not (root / absent).exists(), absent
    assert (root / "app" / "staticfiles").is_dir()


@pytest.mark.sam
async def test_aws_emulator_of_managed_instances_sends_it_four_streams_at_a_time(root: Path, tmp_path: Path) -> None:
    """That mode starts /var/task/bootstrap and nothing else."""
    shutil.copy(emulator(tmp_path), root / "rie")
    bootstrap = root / "var" / "task" / "bootstrap"
    bootstrap.parent.mkdir(exist_ok=True)
    bootstrap.write_text("#!/bin/sh\nexec /app/entrypoint\n")
    bootstrap.chmod(0o755)
    front, api = free_port(), free_port()
    addresses = [
        *("--runtime-interface-emulator-address", f"127.0.0.1:{front}"),
        *("--runtime-api-address", f"127.0.0.1:{api}"),
    ]
    async with ScriptedUpstream() as upstream:
        upstream.default = sse(PIECE, PIECE, LAST, gap=0.25)
        values = seed(upstream, AWS_REGION="eu-west-1", AWS_LAMBDA_MAX_CONCURRENCY="4")
        command = ("/rie", *addresses, "/var/task/bootstrap")
        async with (
            inside(root, tmp_path / "output.txt", *command, user="0", **values),
            httpx.AsyncClient(trust_env=False, timeout=30) as http,
        ):
            url = f"http://127.0.0.1:{front}{INVOKE}"
            async with asyncio.timeout(30):
                while True:
                    with suppress(httpx.TransportError):
                        await http.post(url, json=chat())
                        break
                    await asyncio.sleep(0.1)
            began = time.monotonic()
            answers = await asyncio.gather(*(http.post(url, json=chat()) for _ in range(4)))
            assert time.monotonic() - began < 1.9
    assert [answer.content.endswith(b"data: [DONE]\n\n") for answer in answers] == [True] * 4
