"""openai-python's own tests, against a provider made of OpenAI's specification: directly, and through the gateway.

They call every operation that the library has, with every parameter, and check each answer's type.
"""

import asyncio
import hashlib
import logging
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path
from xml.etree import ElementTree

import httpx
import pytest

from tests.clients import node
from tests.clients.served import Process, configure
from tests.proxysite.commands import ROOT, environment, manage
from tests.proxysite.test_server import free_port
from tests.specification import document

CONFIGURATION = """
providers:
  steady: {{dialect: openai, base_url: "http://127.0.0.1:{port}/v1", credentials: {{main: env:STEADY_KEY}}}}
aliases:
  "*": {{routes: [{{provider: steady}}]}}
"""
VALUES = {"DJANGO_DEBUG": "1", "STEADY_KEY": "steady-provider-token"}
log = logging.getLogger(__name__)
STYLES = ("query-array", "form-array", "query-object", "form-object")
KEYS = re.compile(r'^(api_key|admin_api_key) = ".*"$', re.MULTILINE)

# What differs on purpose, and why: the beginning of a test's name. Without `encoding_format` the library asks for
# base64 and gets it; where it checks strictly, it takes that for a fault.
BASE64 = "the library checks the vectors before it decodes them"
DIFFERENT = {
    "test_embeddings.py::TestEmbeddings::test_method_create[": BASE64,
    "test_embeddings.py::TestEmbeddings::test_raw_response_create[": BASE64,
    "test_embeddings.py::TestEmbeddings::test_streaming_response_create[": BASE64,
}


def sources(cache: pytest.Cache) -> Path:
    """The library's source distribution, of the locked version and by its hash, unpacked; it holds the tests."""
    release = version("openai")
    folder = cache.mkdir("openai_sources") / f"openai-{release}"
    if not folder.exists():
        fetched = folder.with_name(f"fetched-{release}")
        command = ("-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:", "--dest", str(fetched))
        subprocess.run([sys.executable, *command, f"openai=={release}"], check=True, timeout=240)
        (archive,) = fetched.glob("*.tar.gz")
        digest = hashlib.sha256(archive.read_bytes()).hexdigest()
        assert digest in (ROOT / "requirements" / "dev.txt").read_text()
        with tarfile.open(archive) as packed:
            packed.extractall(fetched, filter="data")
        shutil.move(fetched / f"openai-{release}", folder)
        shutil.rmtree(fetched)
    return folder


@asynccontextmanager
async def provider(folder: Path, shelf: Path) -> AsyncIterator[int]:
    """Steady (https://github.com/dgellow/steady): it checks each request and answers with what the document allows."""
    port = free_port()
    styles = [f"--validator-{style}-format=brackets" for style in STYLES]
    binary = shelf / "node_modules" / ".bin" / "steady"
    arguments = [str(binary), "--host", "127.0.0.1", "-p", str(port), *styles, str(document.write(folder))]
    async with Process(arguments, folder / "steady.txt", node.environment()) as process:
        await answers(process, f"http://127.0.0.1:{port}/v1/models")
        yield port


async def answers(process: Process, url: str) -> None:
    async with asyncio.timeout(60), httpx.AsyncClient(trust_env=False) as http:
        while True:
            assert process.process.returncode is None, process.output.read_text()
            try:
                await http.get(url)
                return
            except httpx.TransportError:
                await asyncio.sleep(0.1)


@asynccontextmanager
async def gateway(folder: Path, provider_port: int) -> AsyncIterator[tuple[str, str, str]]:
    """Its address, a key for all, and one for the administration of an organization, which has to be named."""
    key = await configure(folder, CONFIGURATION.format(port=provider_port), VALUES)
    named = ("create_client_key", "admin", "--endpoint", "organization", "--rpm", "0", "--budget", "none", "--json")
    done, _ = await asyncio.to_thread(manage, folder, *named, **VALUES)
    admin = re.findall(r"sk-gw-[^\"]+", done.stdout)[0]
    port = free_port()
    arguments = [sys.executable, "manage.py", "serve", "--port", str(port)]
    async with Process(arguments, folder / "gateway.txt", environment(folder, VALUES)) as process:
        await process.answers(f"http://127.0.0.1:{port}/readyz")
        yield f"http://127.0.0.1:{port}/v1", key, admin


async def run(suite: Path, report: Path, url: str, key: str, admin: str) -> dict[str, bool]:
    """Each test by its name, and whether it has passed; what was skipped is not among them."""
    conftest = suite / "tests" / "conftest.py"
    conftest.write_text(
        KEYS.sub(lambda found: f'{found[1]} = "{admin if "admin" in found[1] else key}"', conftest.read_text())
    )
    options = (
        "-p",
        "no:django",
        "-p",
        "no:cacheprovider",
        "-n",
        "0",
        "-W",
        "ignore",
        "-q",
        "-o",
        "addopts=",
        "--tb=no",
    )
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "pytest", *options, f"--junitxml={report}", "tests/api_resources"),
        cwd=suite,
        env=node.environment(TEST_API_BASE_URL=url, HOME=str(suite)),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    _, err = await process.communicate()
    assert report.exists(), err.decode()
    found = {}
    for case in ElementTree.parse(report).iter("testcase"):
        if case.find("skipped") is None:
            module, _, kind = case.attrib["classname"].removeprefix("tests.api_resources.").rpartition(".")
            name = f"{module.replace('.', '/')}.py::{kind.replace('TestAsync', 'Test')}::{case.attrib['name']}"
            found[f"{name}({'async' if 'TestAsync' in kind else 'sync'})"] = (
                case.find("failure") is None and case.find("error") is None
            )
    return found


@pytest.mark.slow
@pytest.mark.node
async def test_what_passes_at_the_provider_passes_through_the_gateway(
    tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    assert pytestconfig.cache is not None
    suite = tmp_path / "suite"
    shutil.copytree(sources(pytestconfig.cache), suite)
    shelf = node.installed(pytestconfig.cache, "steady")
    async with provider(tmp_path, shelf) as port, gateway(tmp_path, port) as (url, key, admin):
        direct = await run(suite, tmp_path / "direct.xml", f"http://127.0.0.1:{port}/v1", key, admin)
        through = await run(suite, tmp_path / "through.xml", url, key, admin)
    passed = {name for name, good in direct.items() if good}
    lost = sorted(name for name in passed if not through.get(name))
    log.info("%d tests pass at the provider, %d of them through the gateway too", len(passed), len(passed) - len(lost))
    assert len(passed) > 6000
    assert [name for name in lost if not name.startswith(tuple(DIFFERENT))] == []
    assert len(lost) <= 63
