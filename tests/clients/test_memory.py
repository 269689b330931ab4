"""What a large file costs the process that it passes through: a real one, by its own account with the kernel."""

import asyncio
import hashlib
import os
import re
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable
from pathlib import Path
from typing import Protocol

import pytest
import pytest_asyncio

from tests.clients.served import CONFIGURATION, VALUES, Gateway, Process, configure
from tests.gateway.test_uploads import END, FORM, part
from tests.proxysite.commands import environment
from tests.proxysite.test_server import free_port
from tests.scripted import Received, ScriptedUpstream, Step, head, json_answer

pytestmark = [
    pytest.mark.slow,
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc"),
]

MIB = 1024 * 1024
LARGE = os.urandom(20 * MIB)
SMALL = os.urandom(100_000)
TEXT = {"text": "Hello"}


class Measured:
    """A gateway in a process of its own, under `manage.py serve`."""

    def __init__(self, gateway: Gateway, pid: int) -> None:
        self.gateway, self.pid = gateway, pid

    def kib(self, field: str) -> int:
        found = re.search(rf"^{field}:\s+(\d+) kB", Path(f"/proc/{self.pid}/status").read_text(), re.MULTILINE)
        assert found is not None
        return int(found[1])

    def forget_peak(self) -> None:
        """https://man7.org/linux/man-pages/man5/proc_pid_clear_refs.5.html"""
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")

    async def added(self, work: "Work") -> float:
        """MiB that the process had at its highest in three rounds with LARGE, beyond what it had after small ones.

        Those make what lasts: connections, caches, the journal.
        """
        for _ in range(5):
            await work(self.gateway, SMALL)
        await asyncio.sleep(0.5)
        before = self.kib("VmRSS")
        self.forget_peak()
        for _ in range(3):
            await work(self.gateway, LARGE)
        return (self.kib("VmHWM") - before) / 1024


class Work(Protocol):
    """One upload or one download."""

    __name__: str

    def __call__(self, gateway: Gateway, data: bytes) -> Awaitable[None]: ...


@pytest_asyncio.fixture(loop_scope="session", scope="module")
async def measured(lab: ScriptedUpstream, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Measured]:
    data_dir = tmp_path_factory.mktemp("measured")
    key = await configure(data_dir, CONFIGURATION.format(lab=lab.url, nobody=free_port()))
    port = free_port()
    arguments = [sys.executable, "manage.py", "serve", "--port", str(port)]
    async with Process(arguments, data_dir / "serve.txt", environment(data_dir, VALUES)) as process:
        await process.answers(f"http://127.0.0.1:{port}/readyz")
        yield Measured(Gateway(f"http://127.0.0.1:{port}/v1", key), process.process.pid)


async def pieces(body: bytes) -> AsyncGenerator[bytes, None]:
    for start in range(0, len(body), 64 * 1024):
        yield body[start : start + 64 * 1024]


async def transcribe(gateway: Gateway, body: bytes) -> None:
    async with gateway.http() as http:
        answer = await http.post("/audio/transcriptions", content=pieces(body), headers={"content-type": FORM})
    assert answer.json() == TEXT


def answer_of(request: Received) -> list[Step]:
    if request.target != "/v1/audio/speech":
        return json_answer(TEXT)
    data = LARGE if request.json()["input"] == "large" else SMALL
    return [head(200, {"content-type": "audio/wav", "content-length": str(len(data))}), data]


async def upload_with_the_model_first(gateway: Gateway, data: bytes) -> None:
    await transcribe(gateway, part("model", b"fast") + part("file", data, file=True) + END)


async def upload_with_the_file_first(gateway: Gateway, data: bytes) -> None:
    await transcribe(gateway, part("file", data, file=True) + part("model", b"fast") + END)


async def download(gateway: Gateway, data: bytes) -> None:
    digest = hashlib.sha256()
    body = {"model": "fast", "input": "large" if data is LARGE else "small", "voice": "alloy"}
    async with gateway.http() as http, http.stream("POST", "/audio/speech", json=body) as answer:
        async for piece in answer.aiter_raw():
            digest.update(piece)
    assert digest.digest() == hashlib.sha256(data).digest()


@pytest.mark.parametrize("work", [upload_with_the_model_first, upload_with_the_file_first, download])
async def test_twenty_megabytes_take_less_than_two_of_memory(
    measured: Measured, scripted: ScriptedUpstream, work: Work
) -> None:
    scripted.default = answer_of
    added = await measured.added(work)
    assert added < 2.0, f"{added:.2f} MiB more at the peak"
