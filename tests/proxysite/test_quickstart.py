"""`manage.py quickstart`: from nothing to a first streamed answer, as often as one likes."""

import asyncio
import re
import socket
import sys
from pathlib import Path

import pytest

from tests.proxysite.commands import Running, manage
from tests.proxysite.test_server import free_port


def shown(output: str, name: str) -> str:
    found = re.search(rf"^{name} +(.+)$", output, re.MULTILINE)
    assert found is not None, output
    return found[1]


def test_it_prints_what_is_needed_once_and_can_be_run_again(tmp_path: Path) -> None:
    first, _ = manage(tmp_path, "quickstart", "--no-serve", "--port", "8123")
    assert first.returncode == 0, first.stderr
    key, password = shown(first.stdout, "Client key"), shown(first.stdout, "Password")
    assert shown(first.stdout, "Admin") == "http://127.0.0.1:8123/admin/"
    assert shown(first.stdout, "User") == "admin"
    assert shown(first.stdout, "Base URL") == "http://127.0.0.1:8123/v1"
    assert key.startswith("sk-gw-")
    assert len(password) == 16
    assert first.stdout.count(key) == 3

    again, _ = manage(tmp_path, "quickstart", "--no-serve")
    assert again.returncode == 0, again.stderr
    assert key not in again.stdout
    assert password not in again.stdout
    assert shown(again.stdout, "Password") == "set earlier; change it with: manage.py changepassword admin"
    assert shown(again.stdout, "Client key") == "shown earlier; for another one: manage.py quickstart --new-key"

    another, _ = manage(tmp_path, "quickstart", "--no-serve", "--new-key")
    assert shown(another.stdout, "Client key").startswith("sk-gw-")
    assert shown(another.stdout, "Client key") != key


@pytest.mark.parametrize("given", ["https://ai.example.org", "https://ai.example.org/v1/"])
def test_the_printed_address_is_the_configured_one(tmp_path: Path, given: str) -> None:
    done, _ = manage(tmp_path, "quickstart", "--no-serve", OPENAI_PROXY_URL=given)
    assert shown(done.stdout, "Base URL") == "https://ai.example.org/v1"
    assert "curl -N https://ai.example.org/v1/chat/completions " in done.stdout


def test_a_port_that_is_taken_is_said_so_before_anything_is_made(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done, _ = manage(tmp_path, "quickstart", "--port", str(port))
    assert done.returncode == 1
    assert f"Cannot serve on port {port}: Address already in use." in done.stderr
    assert not (tmp_path / "gateway.sqlite3").exists()


async def test_the_printed_curl_line_and_the_python_snippet_work_as_they_stand(tmp_path: Path) -> None:
    port = free_port()
    async with Running(tmp_path, port, "quickstart", "--port", str(port)) as server:
        output = server.output.read_text()
        (curl,) = re.findall(r"^curl .+$", output, re.MULTILINE)
        process = await asyncio.create_subprocess_shell(f"{curl} -sS", stdout=asyncio.subprocess.PIPE)
        streamed, _ = await process.communicate()
        assert process.returncode == 0
        assert streamed.startswith(b"data: {")
        assert streamed.endswith(b"data: [DONE]\n\n")

        snippet = output[output.index("from openai import") : output.index("flush=True)") + len("flush=True)")]
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", snippet, stdout=asyncio.subprocess.PIPE)
        said, _ = await process.communicate()
        assert process.returncode == 0
        assert b"Hello, gateway!" in said
        page = await server.ask("GET", "/admin/login/")
        assert page is not None
        assert page.status == 200
        assert await server.stop() == 0
