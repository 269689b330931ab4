"""`python -m bench.awslambda`: what a function on AWS Lambda costs, against an emulator of the Runtime API.

Cold: from the start of the process to its first poll, beside bare Django with the admin and ninja. Warm: milliseconds
from an event to the whole answer, and to the next poll, against a provider that answers at once; beside AWS's own
runtime client (awslambdaric) with a handler that calls nobody. `--ric PYTHON` is one that has awslambdaric.
"""

import argparse
import asyncio
import json
import os
import secrets
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from bench.servers import ROOT, free_port
from tests.deploy.emulator import Delivery, Emulator
from tests.deploy.requests import url_event
from tests.proxysite.commands import manage, production

RUNTIME = ("-m", "proxysite.awslambda")
MODEL = "gap-0"


@asynccontextmanager
async def environment(
    python: str, arguments: Sequence[str], values: Mapping[str, str]
) -> AsyncIterator[tuple[Emulator, float]]:
    """A function that has begun to poll; how many milliseconds that took. Raises RuntimeError where it does not."""
    async with Emulator() as emulator:
        own = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "AWS_REGION": "eu-west-1", **values}
        began = time.monotonic()
        process = await asyncio.create_subprocess_exec(
            python,
            *arguments,
            cwd=ROOT,
            env=emulator.environment(**own),
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            polled = asyncio.ensure_future(emulator.polled.wait())
            ended = asyncio.ensure_future(process.wait())
            await asyncio.wait([polled, ended], return_when=asyncio.FIRST_COMPLETED, timeout=60)
            if not polled.done():
                raise RuntimeError(f"{arguments} never polled")
            yield emulator, (time.monotonic() - began) * 1000
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()


async def cold(python: str, kinds: Mapping[str, tuple[Sequence[str], Mapping[str, str]]], rounds: int) -> None:
    """Each kind once a round, the first round not counted."""
    taken: dict[str, list[float]] = {name: [] for name in kinds}
    for number in range(rounds + 1):
        for name, (arguments, values) in kinds.items():
            async with environment(python, arguments, values) as (_, milliseconds):
                if number:
                    taken[name].append(milliseconds)
    print("cold: process start to first poll")
    base = 1.0
    for name, figures in taken.items():
        median = statistics.median(figures)
        base = median if name.startswith("bare") else base
        print(f"  {name:32}{median:8.0f} ms   {median / base:.2f}x   (least {min(figures):.0f})")


async def warm(name: str, emulator: Emulator, event: object, *, calls: int) -> None:
    """One call after the other, as in an environment of Lambda."""
    seen: list[Delivery] = []
    for number in range(calls + 20):
        delivery = await emulator.invoke(event)
        await emulator.idle()
        if delivery.status != 200:
            raise RuntimeError(f"{name}: {delivery.status}")
        if number >= 20:
            seen.append(delivery)
    whole, polled = ([getattr(one, field) * 1000 for one in seen] for field in ("ended", "polled"))
    print(f"  {name:32}{statistics.median(whole):8.2f} ms{statistics.median(polled):12.2f} ms", flush=True)


def chat(key: str, *, stream: bool) -> object:
    body = {"model": MODEL, "stream": stream, "messages": [{"role": "user", "content": "How are you?"}]}
    headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
    return url_event("/v1/chat/completions", "POST", headers, json.dumps(body, separators=(",", ":")).encode())


async def run(options: argparse.Namespace, folder: Path) -> None:
    port, key = free_port(), secrets.token_urlsafe(30)
    upstream = await asyncio.create_subprocess_exec(sys.executable, "-m", "bench.upstream", str(port), cwd=ROOT)
    seed = {
        "OPENAI_SERVER_URL": f"http://127.0.0.1:{port}/v1",
        "OPENAI_SERVER_KEY": "sk-upstream-of-the-benchmark",
        "OPENAI_PROXY_KEY": key,
        "GATEWAY_PRIVATE_UPSTREAMS": f"127.0.0.1:{port}",
        "GATEWAY_DATA_DIR": str(folder),
    }
    kinds: dict[str, tuple[Sequence[str], Mapping[str, str]]] = {
        "bare Django": (("-m", "bench.baredjango", "dummy"), {}),
        "gateway, no database": (RUNTIME, seed),
    }
    if options.database:
        seeded = production(DATABASE_URL=options.database) | seed
        done, _ = manage(folder, "migrate", "-v", "0", **seeded)
        if done.returncode:
            raise RuntimeError(done.stderr)
        kinds["bare Django, PostgreSQL"] = (("-m", "bench.baredjango", "postgresql"), {})
        kinds["gateway, PostgreSQL"] = (RUNTIME, {**seeded, "GATEWAY_ADMIN": "0"})
        kinds["gateway, PostgreSQL, admin"] = (RUNTIME, seeded)
    try:
        if options.rounds:
            await cold(options.python, kinds, options.rounds)
        print(f"warm, {options.calls} calls{'':18}whole answer   next poll")
        for name in ("gateway, no database", *(["gateway, PostgreSQL"] if options.database else [])):
            for stream in (False, True):
                async with environment(options.python, *kinds[name]) as (emulator, _):
                    kind = "50 events" if stream else "JSON"
                    await warm(f"{name}, {kind}", emulator, chat(key, stream=stream), calls=options.calls)
        if options.ric:
            arguments = ("-m", "awslambdaric", "bench.barelambda.handler")
            async with environment(options.ric, arguments, {"LAMBDA_TASK_ROOT": str(ROOT)}) as (emulator, _):
                await warm("awslambdaric, bare handler", emulator, chat(key, stream=False), calls=options.calls)
        else:
            print("  No --ric: awslambdaric's row is left out.")
    finally:
        upstream.terminate()
        await upstream.wait()


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.awslambda", description=__doc__)
    parser.add_argument("--python", default=sys.executable, help="the interpreter that is measured")
    parser.add_argument("--ric", default="", help="a Python that has awslambdaric")
    parser.add_argument("--database", default="", help="a PostgreSQL database's URL; it is migrated")
    parser.add_argument("--rounds", type=int, default=7, help="cold starts of each kind; 0: none")
    parser.add_argument("--calls", type=int, default=200)
    with tempfile.TemporaryDirectory(prefix="gateway-bench-") as folder:
        asyncio.run(run(parser.parse_args(arguments), Path(folder)))


if __name__ == "__main__":
    main(sys.argv[1:])
