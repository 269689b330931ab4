"""/healthz and /readyz."""

import time
from typing import Any

import pytest

from proxysite import health
from tests.proxysite.test_asgi import FakeEngine, ask, board, body_of, headers_of


async def test_s24_healthz_is_one_word_without_the_database(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden() -> None:
        raise AssertionError("the database was asked")

    monkeypatch.setattr(health, "ping", forbidden)
    sent = await ask(board(), "/healthz")
    assert (sent[0]["status"], body_of(sent)) == (200, b"ok")
    assert headers_of(sent)[b"cache-control"] == b"no-store"
    assert headers_of(sent)[b"x-request-id"].startswith(b"req_")


async def test_a_head_request_gets_the_head_alone() -> None:
    sent = await ask(board(), "/healthz", method="HEAD")
    assert (body_of(sent), headers_of(sent)[b"content-length"]) == (b"", b"2")


async def test_s41_a_probe_is_only_read() -> None:
    assert (await ask(board(), "/healthz", method="POST"))[0]["status"] == 405


async def readyz(engine: FakeEngine, app: Any = None) -> tuple[int, bytes]:
    sent = await ask(app or board(engine), "/readyz")
    return sent[0]["status"], body_of(sent)


@pytest.mark.django_db(transaction=True)
async def test_readyz_is_200_with_an_engine_and_a_database() -> None:
    engine = FakeEngine()
    assert await readyz(engine) == (503, b"draining")
    await engine.start()
    assert await readyz(engine) == (200, b"ready")
    engine.begin_drain()
    assert await readyz(engine) == (503, b"draining")


async def test_readyz_is_503_without_a_database_and_asks_it_at_most_twice_a_second(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = []

    def broken() -> None:
        asked.append(time.monotonic())
        raise OSError("connection refused")

    monkeypatch.setattr(health, "ping", broken)
    engine = FakeEngine()
    await engine.start()
    app = board(engine)
    assert [await readyz(engine, app) for _ in range(50)] == [(503, b"database")] * 50
    assert len(asked) == 1


async def test_readyz_does_not_wait_for_a_database_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "PING_SECONDS", 0.1)
    monkeypatch.setattr(health, "ping", lambda: time.sleep(0.5))
    engine = FakeEngine()
    await engine.start()
    began = time.monotonic()
    assert await readyz(engine) == (503, b"database")
    assert time.monotonic() - began < 0.4
