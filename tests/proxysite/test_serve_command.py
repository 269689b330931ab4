"""`manage.py serve` and `runserver`: what they refuse (S45, S46) and what they serve, in processes of their own."""

import asyncio
import socket
from pathlib import Path

import pytest

from tests.proxysite.commands import Running, manage, production, ring
from tests.proxysite.test_server import free_port

REPEATED = "k1:" + "QUFB" * 10 + "QUE="


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({}, ["DJANGO_SECRET_KEY is not set", "GATEWAY_ENCRYPTION_KEYS is not set", "GATEWAY_KEY_PEPPERS is not set"]),
        (production(DJANGO_SECRET_KEY="short"), ["DJANGO_SECRET_KEY is too short"]),
        (production(DJANGO_SECRET_KEY="changeme" * 7), ["DJANGO_SECRET_KEY is too short or easily guessed"]),
        (production(GATEWAY_KEY_PEPPERS=""), ["GATEWAY_KEY_PEPPERS is not set"]),
        (production(GATEWAY_KEY_PEPPERS=REPEATED), ["GATEWAY_KEY_PEPPERS entry 'k1' is not 32 random bytes"]),
        (
            production(GATEWAY_KEY_PEPPERS=(same := ring("k1")), GATEWAY_ENCRYPTION_KEYS=same),
            ["hold the same value twice"],
        ),
    ],
    ids=["missing", "short", "guessed", "empty", "low entropy", "equal"],
)
def test_s45_bad_secrets_are_refused_within_2_seconds(tmp_path: Path, values: dict[str, str], named: list[str]) -> None:
    done, seconds = manage(tmp_path, "serve", **values)
    assert done.returncode == 1
    assert done.stderr.startswith("Refusing to start:\n- ")
    for name in named:
        assert name in done.stderr
    assert "Traceback" not in done.stderr
    assert seconds < 2


@pytest.mark.parametrize("command", [("serve", "--host", "0.0.0.0"), ("runserver", "0.0.0.0:8000")])
def test_s45_debug_on_a_public_address_is_refused(tmp_path: Path, command: tuple[str, ...]) -> None:
    done, _ = manage(tmp_path, *command, DJANGO_DEBUG="1")
    assert done.returncode == 1
    assert "Refusing to bind 0.0.0.0 with DJANGO_DEBUG on" in done.stderr


def test_s45_the_system_check_names_the_missing_secrets(tmp_path: Path) -> None:
    done, _ = manage(tmp_path, "check", DJANGO_SECRET_KEY="x" * 3)
    assert done.returncode == 1
    assert done.stderr.count("(proxysite.E001)") == 3


@pytest.mark.parametrize("command", [("serve", "--port"), ("runserver",)])
def test_a_port_that_is_taken_is_said_so(tmp_path: Path, command: tuple[str, ...]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done, _ = manage(tmp_path, *command, str(port), DJANGO_DEBUG="1")
    assert done.returncode == 1
    assert f"Cannot bind 127.0.0.1:{port}: Address already in use" in done.stderr


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_s46_a_fresh_installation_serves_this_machine_only_and_no_route_without_a_key(
    tmp_path: Path, workers: str
) -> None:
    port = free_port()
    secrets = production()
    done, _ = await asyncio.to_thread(manage, tmp_path, "migrate", "-v", "0", **secrets)
    assert done.returncode == 0, done.stderr
    async with Running(tmp_path, port, "serve", "--port", str(port), "--workers", workers, **secrets) as server:
        for method, path in [("GET", "/v1/models"), ("POST", "/v1/chat/completions"), ("GET", "/v1/unknown")]:
            answer = await server.ask(method, path)
            assert answer is not None
            assert (answer.status, answer.error["code"]) == (401, "invalid_api_key")
        health = await server.ask("GET", "/healthz")
        assert health is not None
        assert (health.status, health.body) == (200, b"ok")
        public = [str(item[4][0]) for item in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)]
        for address in {item for item in public if not item.startswith("127.")}:
            with socket.socket() as trial:
                assert trial.connect_ex((address, port)) != 0
        assert await server.stop() == 0


async def test_runserver_serves_the_admin_with_its_style_and_the_gateway(tmp_path: Path) -> None:
    port = free_port()
    done, _ = await asyncio.to_thread(manage, tmp_path, "migrate", "-v", "0", DJANGO_DEBUG="1")
    assert done.returncode == 0, done.stderr
    async with Running(tmp_path, port, "runserver", str(port), "--noreload") as server:
        page, style = await server.ask("GET", "/admin/login/"), await server.ask("GET", "/static/admin/css/base.css")
        gateway = await server.ask("GET", "/v1/models")
        assert page is not None
        assert style is not None
        assert gateway is not None
        assert (page.status, style.status, gateway.status) == (200, 200, 401)
        assert style.headers["content-type"] == 'text/css; charset="utf-8"'
        assert await server.stop() == 0
    assert f"Development server at http://127.0.0.1:{port}/" in server.output.read_text()


async def test_runserver_starts_again_when_a_file_changes(tmp_path: Path) -> None:
    port = free_port()
    done, _ = await asyncio.to_thread(manage, tmp_path, "migrate", "-v", "0", DJANGO_DEBUG="1")
    assert done.returncode == 0, done.stderr
    watched = Path(__file__).resolve().parents[2] / "proxysite" / "__init__.py"
    async with Running(tmp_path, port, "runserver", str(port)) as server:
        await asyncio.sleep(1)
        watched.touch()
        async with asyncio.timeout(60):
            while server.output.read_text().count("Application startup complete.") < 2:
                await asyncio.sleep(0.1)


async def test_runserver_says_which_migrations_are_missing(tmp_path: Path) -> None:
    port = free_port()
    async with Running(tmp_path, port, "runserver", str(port), "--noreload") as server:
        assert "unapplied migration(s)" in server.output.read_text()
        assert await server.stop() == 0


def test_s45_check_deploy_is_clean_on_production_settings(tmp_path: Path) -> None:
    values = production(GATEWAY_HTTPS="1", GATEWAY_TRUSTED_PROXY_HOPS="1", DJANGO_ALLOWED_HOSTS="ai.example.org")
    done, _ = manage(tmp_path, "check", "--deploy", "--fail-level", "WARNING", **values)
    assert done.returncode == 0, done.stderr


def test_an_address_that_is_none_is_said_so(tmp_path: Path) -> None:
    done, _ = manage(tmp_path, "runserver", "127.0.0.1:80x")
    assert done.returncode == 1
    assert "is not a valid port number" in done.stderr
