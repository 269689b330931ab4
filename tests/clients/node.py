"""Packages of Node.js, installed from a lock once and kept with pytest's cache."""

import asyncio
import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def installed(cache: pytest.Cache, name: str) -> Path:
    """The folder whose `node_modules` holds what the lock in tests/clients/`name` says."""
    source = HERE / name
    lock = [source / "package.json", source / "package-lock.json"]
    digest = hashlib.sha256(b"".join(file.read_bytes() for file in lock)).hexdigest()[:12]
    shelf = cache.mkdir("node_packages")
    folder = shelf / f"{name}-{digest}"
    if not folder.exists():
        fresh = Path(tempfile.mkdtemp(dir=shelf, prefix=f"{name}-"))
        for file in lock:
            shutil.copy(file, fresh)
        subprocess.run(["npm", "ci", "--no-audit", "--no-fund"], cwd=fresh, check=True, timeout=240)
        try:
            fresh.rename(folder)
        except OSError:  # another run was faster
            shutil.rmtree(fresh)
    return folder


def environment(**values: str) -> dict[str, str]:
    """Nothing but the way to the programs, and what a test says."""
    return {"PATH": os.environ["PATH"], **values}


async def run(folder: Path, script: str, binary: str, **values: str) -> str:
    """What a script of this folder prints, run where it finds the packages of that folder."""
    with tempfile.NamedTemporaryFile(dir=folder, prefix="run-", suffix=".mjs") as copy:
        copy.write((HERE / script).read_bytes())
        copy.flush()
        process = await asyncio.create_subprocess_exec(
            *(binary, copy.name),
            env=environment(**values),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(60):
                out, err = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
    assert process.returncode == 0, err.decode()
    return out.decode()
