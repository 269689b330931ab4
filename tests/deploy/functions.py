"""The image's entry point in a process of its own: an environment of a function, against the emulator."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Self

from tests.deploy.emulator import Delivery, Emulator
from tests.deploy.requests import EVENTS
from tests.gateway.processes import Site
from tests.proxysite.commands import ROOT, environment

# Runs the entry point under a wall clock that the file's number of seconds is added to; the monotonic one stays.
MOVED_CLOCK = """
import runpy, sys, time
real, path, known = time.time, sys.argv[1], "0"
def moved():
    global known
    known = open(path).read() or known  # empty: it is being written
    return real() + float(known)
time.time = moved
sys.argv = ["proxysite.awslambda"]
runpy.run_module("proxysite.awslambda", run_name="__main__")
"""


class Function:
    """`python -m proxysite.awslambda` with these variables and no others."""

    def __init__(
        self, folder: Path, emulator: Emulator, values: Mapping[str, str], *, moved: Path | None = None
    ) -> None:
        self.folder, self.emulator, self.values = folder, emulator, dict(values)
        self.arguments = ["-m", "proxysite.awslambda"] if moved is None else ["-c", MOVED_CLOCK, str(moved)]
        self.output = folder / "function.txt"

    async def __aenter__(self) -> Self:
        self.folder.mkdir(exist_ok=True)
        with self.output.open("ab") as output:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable,
                *self.arguments,
                cwd=ROOT,
                env=environment(self.folder, self.emulator.environment(**{"AWS_REGION": "eu-west-1", **self.values})),
                stdout=output,
                stderr=output,
            )
        idle = asyncio.ensure_future(self.emulator.idle(60))
        ended = asyncio.ensure_future(self.process.wait())
        await asyncio.wait([idle, ended], return_when=asyncio.FIRST_COMPLETED)
        ended.cancel()
        assert idle.done(), self.log
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()

    @property
    def log(self) -> str:
        return self.output.read_text()

    def signal(self, number: int) -> None:
        os.kill(self.process.pid, number)

    async def kill(self) -> None:
        self.signal(signal.SIGKILL)
        await self.process.wait()


class House:
    """A site with its database, and one environment that serves it."""

    def __init__(self, site: Site, emulator: Emulator, function: Function) -> None:
        self.site, self.emulator, self.function = site, emulator, function

    async def ask(self, body: bytes, *, form: str = "2.0", key: str | None = None, timeout: float = 30.0) -> Delivery:
        return await self.emulator.invoke(self.event(body, form=form, key=key), timeout=timeout)

    def event(self, body: bytes, *, form: str = "2.0", key: str | None = None) -> dict[str, Any]:
        headers = {"content-type": "application/json"}
        if key is None:
            key = self.site.key
        if key:
            headers["authorization"] = f"Bearer {key}"
        return EVENTS[form]("/v1/chat/completions", "POST", headers, body)


@asynccontextmanager
async def open_house(
    folder: Path, upstream_port: int, database_url: str = "", *, moved: Path | None = None, **values: str
) -> AsyncIterator[House]:
    """SQLite serves development only, on Lambda too: without a `database_url` the function runs in that."""
    async with Site(folder, upstream_port, database_url) as site, Emulator() as emulator:
        more = {} if database_url else {"DJANGO_DEBUG": "1"}
        async with Function(folder / "function", emulator, {**site.values, **more, **values}, moved=moved) as function:
            yield House(site, emulator, function)
