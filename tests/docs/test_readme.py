"""The README's promises are kept: its table is the presets, and its calls run as they stand against a fresh gateway."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.servers import free_port
from providers.presets import presets
from proxysite.env import BASE_DIR

README = (BASE_DIR / "README.md").read_text()
ANSWER = "Hello, gateway!"


def snippet(language: str) -> str:
    found = re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    assert len(found) == 1
    text: str = found[0]
    return text


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment of a client of a gateway that quickstart has just made and serves."""
    place, port = tmp_path_factory.mktemp("quickstart"), free_port()
    environment = os.environ | {"GATEWAY_DATA_DIR": str(place)}
    environment.pop("DJANGO_DEBUG")
    printed = place / "printed"
    with printed.open("w") as out:
        command = [sys.executable, "manage.py", "quickstart", "--port", str(port)]
        process = subprocess.Popen(command, cwd=BASE_DIR, env=environment, stdout=out, stderr=subprocess.STDOUT)
    try:
        yield environment | {
            "OPENAI_API_KEY": waited_for(printed, process, r"^Client key\s+(sk-gw-\S+)$"),
            "OPENAI_BASE_URL": waited_for(printed, process, r"^Base URL\s+(\S+)$"),
            "READY": waited_for(printed, process, r"(startup complete)"),
        }
    finally:
        process.terminate()
        process.wait(40)


def waited_for(printed: Path, process: subprocess.Popen[bytes], pattern: str) -> str:
    end = time.monotonic() + 60
    while time.monotonic() < end and process.poll() is None:
        if match := re.search(pattern, printed.read_text(), re.MULTILINE):
            return match[1]
        time.sleep(0.1)
    raise AssertionError(printed.read_text())


def test_the_table_of_presets_is_complete() -> None:
    table = README.partition("| preset | provider |")[2].partition("\n\n")[0]
    named = [name for row in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE) for name in re.findall(r"`(.*?)`", row)]
    assert sorted(named) == sorted(presets())


@pytest.mark.slow
def test_the_python_example_runs_as_it_stands(client: dict[str, str]) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", snippet("python")], env=client, capture_output=True, text=True, timeout=60, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert ANSWER in ran.stdout


@pytest.mark.slow
def test_the_curl_example_runs_as_it_stands(client: dict[str, str]) -> None:
    ran = subprocess.run(
        ["bash", "-c", snippet("bash")], env=client, capture_output=True, text=True, timeout=60, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith("data: {")
    assert ran.stdout.endswith("data: [DONE]\n\n")
