"""`manage.py` in a process of its own, with an environment that holds only what a test says."""

import asyncio
import base64
import os
import secrets
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Self

from tests.proxysite.wire import Answer, answers, say

ROOT = Path(__file__).resolve().parents[2]


def ring(name: str) -> str:
    return f"{name}:{base64.b64encode(secrets.token_bytes(32)).decode()}"


def production(**values: str) -> dict[str, str]:
    """Three good secrets."""
    return {
        "DJANGO_SECRET_KEY": secrets.token_urlsafe(50),
        "GATEWAY_ENCRYPTION_KEYS": ring("k1"),
        "GATEWAY_KEY_PEPPERS": ring("k1"),
        **values,
    }


def environment(data_dir: Path, values: dict[str, str]) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "GATEWAY_DATA_DIR": str(data_dir), "PYTHONUNBUFFERED": "1", **values}


def manage(data_dir: Path, *arguments: str, **values: str) -> tuple[subprocess.CompletedProcess[str], float]:
    """Run to its end: (what it said and its status, seconds)."""
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "manage.py", *arguments],
        cwd=ROOT,
        env=environment(data_dir, values),
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    return done, time.monotonic() - began


class Running:
    """`async with Running(data_dir, "serve", ...)`: a command that serves until the block ends."""

    def __init__(self, data_dir: Path, port: int, *arguments: str, **values: str) -> None:
        self.data_dir, self.port, self.arguments, self.values = data_dir, port, arguments, values
        self.output = data_dir / "output.txt"

    async def __aenter__(self) -> Self:
        with self.output.open("wb") as output:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable,
                "manage.py",
                *self.arguments,
                cwd=ROOT,
                env=environment(self.data_dir, self.values),
                stdout=output,
                stderr=output,
            )
        async with asyncio.timeout(60):
            while (answer := await self.ask("GET", "/readyz")) is None or answer.status != 200:
                assert self.process.returncode is None, (self.process.returncode, self.output.read_text())
                await asyncio.sleep(0.1)
        return self

    async def ask(self, method: str, path: str, *headers: str, body: bytes = b"") -> Answer | None:
        """The answer; None where nobody listens."""
        lines = [f"{method} {path} HTTP/1.1", "Host: localhost", "Connection: close", *headers]
        if body:
            lines.append(f"Content-Length: {len(body)}")
        try:
            raw = await say(self.port, "\r\n".join([*lines, "", ""]).encode() + body, seconds=20)
        except ConnectionError:
            return None
        return answers(raw)[0] if raw else None

    async def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(36):
            return await self.process.wait()

    async def __aexit__(self, *exc: object) -> None:
        if self.process.returncode is None:
            self.process.terminate()
            await self.process.wait()
