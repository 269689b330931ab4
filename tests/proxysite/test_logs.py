"""What a log line is, whoever writes it, and what it may show."""

import asyncio
import json
import logging
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from providers.scrubbing import Scrubber
from proxysite import logs

CANARY = "sk-canary-" + "77aa77aa77aa"
HOSTILE = 'a\nb\r\x1b[31mred\x9b31m"quote"\u2028end'


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    """The test run's own configuration comes back."""
    structlog_before, root = structlog.get_config(), logging.getLogger()
    before = (root.handlers[:], root.level, logs.Stream.scrub, sys.excepthook, sys.unraisablehook)
    yield
    structlog.configure(**structlog_before)
    root.handlers[:], root.level, logs.Stream.scrub, sys.excepthook, sys.unraisablehook = before


@pytest.fixture(params=["json", "console"])
def form(request: pytest.FixtureRequest) -> str:
    logs.configure(form=request.param, level="debug")
    return str(request.param)


def lines(capfd: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capfd.readouterr().err.splitlines()]


def test_a_logged_exception_shows_no_local_variable(form: str, capfd: pytest.CaptureFixture[str]) -> None:
    token = "canary-without-a-form-77aa"
    try:
        raise ValueError("boom")
    except ValueError:
        structlog.get_logger("test").exception("failed")
        logging.getLogger("somebody").exception("failed too")
    written = capfd.readouterr().err
    assert written.count("ValueError: boom") == 2
    assert token not in written


def test_a_secret_in_an_exceptions_text_is_hidden(form: str, capfd: pytest.CaptureFixture[str]) -> None:
    try:
        raise ValueError(f"refused: {CANARY}") from RuntimeError(f"Authorization: Bearer {CANARY}")
    except ValueError as error:
        structlog.get_logger("test").exception("failed", why=str(error))
        logging.getLogger("django.request").error("Internal Server Error: %s", CANARY, exc_info=error)
    written = capfd.readouterr().err
    assert written.count("refused: ") >= 3
    assert "77aa77aa" not in written


@pytest.mark.parametrize("name", ["httpx", "uvicorn.error", "django.request", "asyncio", "anything.else"])
def test_the_libraries_lines_have_our_form_and_our_filter(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    logs.configure(form="json")
    logging.getLogger(name).warning("said %s", CANARY)
    [line] = lines(capfd)
    assert line.pop("timestamp").endswith("Z")
    assert line == {"event": "said sk-***", "logger": name, "level": "warning"}


def test_one_event_is_one_line_whatever_its_fields_hold(capfd: pytest.CaptureFixture[str]) -> None:
    logs.configure(form="json")
    structlog.get_logger("test").info("said", text=HOSTILE, **{'na"me\n': 1})
    logging.getLogger("uvicorn.error").info("said %s", HOSTILE)
    written = capfd.readouterr().err
    assert written.count("\n") == len(written.splitlines()) == 2
    assert not {"\x1b", "\x9b", "\r", "\u2028"} & set(written)
    first, second = map(json.loads, written.splitlines())
    assert first["text"] == HOSTILE
    assert second["event"] == f"said {HOSTILE}"


def test_readable_lines_hold_no_control_characters_of_strangers(capfd: pytest.CaptureFixture[str]) -> None:
    logs.configure(form="console")
    structlog.get_logger("test").info("said", text=HOSTILE)
    written = capfd.readouterr().err
    assert written.count("\n") == 1
    assert not {"\x1b", "\x9b", "\r", "\u2028"} & set(written)


def test_the_level_holds_for_everybody(capfd: pytest.CaptureFixture[str]) -> None:
    logs.configure(form="json", level="warning")
    for name in ("test", "uvicorn.error"):
        logging.getLogger(name).info("not this")
        structlog.get_logger(name).info("not this")
        logging.getLogger(name).warning("this")
    assert [line["event"] for line in lines(capfd)] == ["this", "this"]


def test_http_clients_and_sql_are_quiet_at_debug_too(capfd: pytest.CaptureFixture[str]) -> None:
    logs.configure(form="json", level="debug")
    for name in logs.TALKATIVE:
        logging.getLogger(name).debug("headers %s", CANARY)
        logging.getLogger(name).info("GET https://example.org")
    assert lines(capfd) == []


def test_fields_that_are_secrets_by_name_are_hidden(capfd: pytest.CaptureFixture[str]) -> None:
    logs.configure(form="json")
    structlog.get_logger("test").info("said", authorization="plain words", headers={"a": "b"}, body="a question")
    [line] = lines(capfd)
    assert [line["authorization"], line["headers"], line["body"]] == ["***"] * 3


def test_a_record_that_cannot_be_formatted_is_told_of_without_its_text(capfd: pytest.CaptureFixture[str]) -> None:
    logs.configure(form="json")
    logging.getLogger("test").warning("%d", CANARY)
    [line] = lines(capfd)
    assert (line["event"], line["logger"], line["error"]) == ("log_record_lost", "test", "TypeError")


def test_warnings_and_uncaught_exceptions_are_lines_too(capfd: pytest.CaptureFixture[str]) -> None:
    logs.configure(form="json")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(False)
        logging.captureWarnings(True)
        warnings.warn(f"beware of {CANARY}", UserWarning, stacklevel=1)
    error = ValueError(f"nobody caught {CANARY}")
    sys.excepthook(ValueError, error, None)
    loop = asyncio.new_event_loop()
    loop.call_exception_handler({"message": "task died", "exception": error})
    loop.close()
    written = capfd.readouterr().err
    assert "77aa77aa" not in written
    assert [json.loads(line)["logger"] for line in written.splitlines()] == ["py.warnings", "process", "asyncio"]


class Broken:
    """A standard error that nobody reads any more."""

    def write(self, data: bytes) -> None:
        raise BrokenPipeError

    flush = write


def test_only_the_account_fails_where_no_line_can_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    logs.configure(form="json")
    with monkeypatch.context() as patched:
        patched.setattr(sys, "stderr", Broken())
        structlog.get_logger("access").info("request")
        logging.getLogger("test").warning("lost")
        with pytest.raises(OSError):
            structlog.get_logger("usage").info("usage")


def test_what_the_process_holds_is_hidden(capfd: pytest.CaptureFixture[str]) -> None:
    logs.configure(form="json", scrubber=Scrubber(lambda: (b"held in memory",)))
    structlog.get_logger("test").info("said", what="it is held in memory now")
    assert lines(capfd)[0]["what"] == "it is *** now"


def test_a_secret_that_comes_later_is_hidden_from_then_on(capfd: pytest.CaptureFixture[str]) -> None:
    held = [tuple(f"held since {day:03d}".encode() for day in range(300))]
    logs.configure(form="json", scrubber=Scrubber(lambda: held[0]))
    log = structlog.get_logger("test")
    log.info("said", what="held since 299, held since 300")
    held[0] = (*held[0], b"held since 300")
    log.info("said", what="held since 300")
    held[0] = ()
    log.info("said", what="held since 299, held since 300")
    assert [line["what"] for line in lines(capfd)] == [
        "***, held since 300",
        "***",
        "held since 299, held since 300",
    ]


@pytest.mark.parametrize(("level", "count"), [("debug", 1), ("info", 1), ("warning", 0), ("error", 0)])
def test_the_line_of_a_request_is_of_the_level_info(level: str, count: int, capfd: pytest.CaptureFixture[str]) -> None:
    logs.configure(form="json", level=level)
    structlog.get_logger("access").event({"event": "request", "status": 200, "secret": "plain words"})
    written = lines(capfd)
    assert len(written) == count
    for line in written:
        assert line.pop("timestamp").endswith("Z")
        assert line == {"event": "request", "status": 200, "secret": "***", "level": "info", "logger": "access"}


@pytest.mark.parametrize(
    ("at", "written"),
    [
        (0.0, "1970-01-01T00:00:00.000000Z"),
        (1_795_698_000.5, "2026-11-26T13:00:00.500000Z"),
        (1e9 + 0.125, "2001-09-09T01:46:40.125000Z"),
    ],
)
def test_a_line_says_when_it_was_written(
    at: float, written: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    logs.configure(form="json")
    monkeypatch.setattr("time.time", lambda: at)
    structlog.get_logger("test").info("said")
    [line] = lines(capfd)
    assert line["timestamp"] == written
