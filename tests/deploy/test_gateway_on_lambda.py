"""The gateway behind the Runtime API: streams, deadlines, the account of each request, freezes."""

import asyncio
import json
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import psycopg
import pytest

from tests.deploy.emulator import Delivery
from tests.deploy.functions import House, open_house
from tests.deploy.requests import EVENTS, url_event
from tests.gateway import golden
from tests.scripted import HANG, RESET, Chunk, ScriptedUpstream, head, json_answer, sse

STREAM = json.dumps({"model": "fast", "stream": True, "messages": []}).encode()
WHOLE = json.dumps({"model": "fast", "messages": []}).encode()
PIECE = {"id": "c1", "object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {"content": "x"}}]}
LAST = {"id": "c1", "object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
SSE_HEAD = head(200, {"content-type": "text/event-stream", "transfer-encoding": "chunked"})


def piece() -> Chunk:
    return Chunk(b"data: " + json.dumps(PIECE).encode() + b"\n\n")


@pytest.fixture
async def upstream() -> AsyncIterator[ScriptedUpstream]:
    async with ScriptedUpstream() as scripted:
        scripted.default = json_answer(golden.COMPLETION)
        yield scripted


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def database_url(request: pytest.FixtureRequest) -> str:
    """ "" for SQLite in the site's folder."""
    return "" if request.param == "sqlite" else str(request.getfixturevalue("postgres_url"))


@pytest.fixture
async def house(tmp_path: Path, upstream: ScriptedUpstream, database_url: str) -> AsyncIterator[House]:
    async with open_house(tmp_path, upstream.port, database_url) as opened:
        yield opened


def error_code(delivery: Delivery) -> str:
    """Of the error event that a stream ends with."""
    last = delivery.body.strip().rpartition(b"data: ")[2]
    code: str = json.loads(last)["error"]["code"]
    return code


async def test_tokens_arrive_as_the_provider_sends_them_and_the_row_is_there_before_the_next_poll(
    house: House, upstream: ScriptedUpstream
) -> None:
    upstream.enqueue(sse(*[PIECE] * 5, LAST, gap=0.1))
    delivery = await house.ask(STREAM)
    assert delivery.status == 200
    assert delivery.header("content-type") == "text/event-stream; charset=utf-8"
    arrived = [at for at, data in delivery.body_chunks if b'"content"' in data]
    assert len(arrived) == 5
    for number, at in enumerate(arrived):
        assert abs(at - arrived[0] - number * 0.1) < 0.02
    assert delivery.body.endswith(b"data: [DONE]\n\n")
    assert delivery.trailers == {}
    await house.emulator.idle()
    assert [row["outcome"] for row in await house.site.rows(1, within=0)] == ["ok"]


async def test_a_stream_that_the_provider_breaks_off_ends_with_an_event_and_trailers(
    house: House, upstream: ScriptedUpstream
) -> None:
    upstream.enqueue([SSE_HEAD, piece(), piece(), RESET])
    delivery = await house.ask(STREAM)
    assert delivery.status == 200
    assert error_code(delivery) == "stream_interrupted"
    assert b"[DONE]" not in delivery.body
    assert delivery.trailers["lambda-runtime-function-error-type"] == "Function.StreamInterrupted"
    await house.emulator.idle()
    assert [row["outcome"] for row in await house.site.rows(1, within=0)] == ["truncated"]


async def test_an_answer_that_is_kept_and_breaks_off_is_told_to_lambda_as_any_other(
    tmp_path: Path, upstream: ScriptedUpstream
) -> None:
    async with open_house(tmp_path, upstream.port) as house:
        event = house.event(STREAM)
        event["headers"]["idempotency-key"] = "k1"
        upstream.enqueue([SSE_HEAD, piece(), RESET], sse(PIECE, LAST))
        broken = await house.emulator.invoke(event)
        assert error_code(broken) == "stream_interrupted"
        assert broken.trailers["lambda-runtime-function-error-type"] == "Function.StreamInterrupted"
        for _ in range(2):
            whole = await house.emulator.invoke(event)
            assert (whole.status, whole.trailers) == (200, {})
            assert whole.body.endswith(b"data: [DONE]\n\n")
        assert len(upstream.requests) == 2


@pytest.mark.parametrize("begun", [True, False])
async def test_the_deadline_ends_a_request_in_our_own_words_before_lambda_would(
    tmp_path: Path, upstream: ScriptedUpstream, begun: bool
) -> None:
    async with open_house(tmp_path, upstream.port) as house:
        upstream.enqueue([SSE_HEAD, piece(), HANG] if begun else [HANG])
        delivery = await house.ask(STREAM, timeout=3.0)
        assert 2.0 < delivery.ended < 2.8
        assert delivery.status == (200 if begun else 502)
        if begun:
            assert error_code(delivery) == "stream_interrupted"
            assert delivery.trailers["lambda-runtime-function-error-type"] == "Function.StreamInterrupted"
        else:
            assert json.loads(delivery.body)["error"]["code"] == "stream_interrupted"
        await house.emulator.idle()
        assert [row["sent"] for row in await house.site.rows(1, within=0)] == [True]
        assert (await house.ask(WHOLE)).status == 200


async def test_200_invocations_use_one_connection_to_the_provider(tmp_path: Path, upstream: ScriptedUpstream) -> None:
    async with open_house(tmp_path, upstream.port) as house:
        for number in range(200):
            upstream.enqueue(sse(PIECE, LAST) if number % 2 else json_answer(golden.COMPLETION))
            assert (await house.ask(STREAM if number % 2 else WHOLE)).status == 200
        await house.emulator.idle()
        assert len(upstream.requests) == 200
        assert len(upstream.connections) == 1
        rows = await house.site.rows(200, within=0)
        assert [row["outcome"] for row in rows] == ["ok"] * 200


@pytest.mark.postgres
async def test_200_invocations_use_one_connection_to_the_database(
    tmp_path: Path, upstream: ScriptedUpstream, postgres_url: str
) -> None:
    async with open_house(tmp_path, upstream.port, postgres_url) as house:
        for _ in range(200):
            assert (await house.ask(WHOLE)).status == 200
        await house.emulator.idle()
        with psycopg.connect(postgres_url) as watcher:
            query = (
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
            found = watcher.execute(query).fetchone()
        # The function's, and that of the operator's process.
        assert found == (2,)
        assert len(await house.site.rows(200, within=0)) == 200


@pytest.mark.parametrize("asleep", [0.0, 600.0])
async def test_s21_a_key_that_was_revoked_in_a_freeze_is_refused_at_once(
    tmp_path: Path, upstream: ScriptedUpstream, database_url: str, asleep: float
) -> None:
    clock = tmp_path / "clock"
    clock.write_text("0")
    async with open_house(tmp_path, upstream.port, database_url, moved=clock) as house:
        assert (await house.ask(WHOLE)).status == 200
        await house.emulator.idle()
        house.function.signal(signal.SIGSTOP)
        await house.site.operate("ClientKey.objects.update(enabled=False)")
        await asyncio.sleep(1.2)
        clock.write_text(str(asleep))
        house.emulator.now = lambda: time.time() + asleep  # type: ignore[method-assign]
        house.function.signal(signal.SIGCONT)
        refused = await house.ask(WHOLE)
        assert (refused.status, json.loads(refused.body)["error"]["code"]) == (401, "invalid_api_key")
        assert len(upstream.requests) == 1


async def test_s21_an_environment_that_dies_in_a_stream_leaves_its_open_row(
    house: House, upstream: ScriptedUpstream
) -> None:
    upstream.enqueue([SSE_HEAD, piece(), HANG])
    delivery = house.emulator.send(house.event(STREAM))
    await asyncio.wait_for(delivery.begun.wait(), 10)
    await house.function.kill()
    (row,) = await house.site.rows(1, within=0)
    assert (row["outcome"], row["sent"], row["status"]) == ("open", True, 0)
    await house.site.operate(
        "from datetime import UTC, datetime, timedelta\nfrom ledger import openrows\n"
        "result = openrows.lose(), openrows.lose(datetime.now(UTC) + timedelta(minutes=21))"
    )
    (row,) = await house.site.rows(1, within=0)
    assert (row["outcome"], row["flagged"]) == ("lost", True)


@pytest.mark.postgres
async def test_a_request_that_cannot_be_recorded_is_not_sent(
    tmp_path: Path, upstream: ScriptedUpstream, postgres_url: str
) -> None:
    async with open_house(tmp_path, upstream.port, postgres_url) as house:
        assert (await house.ask(WHOLE)).status == 200
        with psycopg.connect(postgres_url, autocommit=True) as operator:
            operator.execute("ALTER TABLE ledger_usagerecord RENAME TO away")
            refused = await house.ask(WHOLE)
            operator.execute("ALTER TABLE away RENAME TO ledger_usagerecord")
        assert (refused.status, len(upstream.requests)) == (503, 1)
        assert (await house.ask(WHOLE)).status == 200


KEYS = [("", 401), ("sk-gw-junk", 401), ("another", 401), ("Bearer", 401), (None, 200)]


@pytest.mark.parametrize("mode", ["response_stream", "buffered"])
async def test_the_same_keys_are_let_in_through_every_front_door(
    tmp_path: Path, upstream: ScriptedUpstream, mode: str
) -> None:
    async with open_house(tmp_path, upstream.port, GATEWAY_INVOKE_MODE=mode) as house:
        for form in sorted(EVENTS):
            for key, status in KEYS:
                delivery = await house.ask(WHOLE, form=form, key=key)
                assert (delivery.status, form, key) == (status, form, key)
                assert delivery.streamed == (mode == "response_stream" and form != "alb")
                if status == 401:
                    assert json.loads(delivery.body)["error"]["code"] == "invalid_api_key"
        assert len(upstream.requests) == len(EVENTS)


async def test_commands_are_run_by_direct_events_only(tmp_path: Path, upstream: ScriptedUpstream) -> None:
    async with open_house(tmp_path, upstream.port) as house:
        migrated = json.loads((await house.emulator.invoke({"manage": ["migrate", "--noinput"]})).raw)
        assert migrated["ok"]
        assert "No migrations to apply" in migrated["output"]
        made = json.loads((await house.emulator.invoke({"manage": ["create_client_key", "app2", "--json"]})).raw)
        assert (await house.ask(WHOLE, key=made["result"]["key"])).status == 200
        admin = json.loads((await house.emulator.invoke({"manage": ["create_admin", "--json"]})).raw)
        assert admin["result"]["user"] == "admin"
        again = json.loads((await house.emulator.invoke({"manage": ["create_admin"]})).raw)
        assert again == {"ok": False, "error": "There is a user 'admin' already; --reset gives it a new password."}
        refused = json.loads((await house.emulator.invoke({"manage": ["shell", "-c", "print(1)"]})).raw)
        assert refused["error"].startswith("'shell' may not be run this way; there are check, ")
        scheduled = {"source": "aws.events", "detail-type": "Scheduled Event"}
        assert json.loads((await house.emulator.invoke(scheduled)).raw)["ok"]
        forged = url_event("/", "POST", {}, b'{"manage": ["migrate"]}', manage=["migrate"])
        assert (await house.emulator.invoke(forged)).streamed
