"""Nothing that a test run prints holds a secret or a prompt: a plugin that looks through all of it.

Looked through are what each test wrote to standard output, standard error and the log (captured at DEBUG), what it read
of its own standard error, and at the end the files of its temporary directories: logs of servers, journals, databases.
"""

import re
from collections.abc import Generator, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from proxysite.logs import Stream

PROVIDER_TOKEN = "provider-token-canary-7f3a"
PROMPT = "Hello canary-51c9!!"
ANSWER = "How can I assist you today?"
ALWAYS = tuple(text.encode() for text in (PROVIDER_TOKEN, "canary-51c9", ANSWER))
KEY = re.compile(rb"[spe]k-gw-[A-Za-z0-9]{10}-[A-Za-z0-9]{49}")
# Written by tests, and meant to hold what they hold.
WRITTEN_BY_TESTS = frozenset({".yaml", ".yml", ".json", ".toml", ".py", ".mjs", ".js", ".ts", ".pem", ".har"})
LARGEST = 64 * 1024 * 1024
FOUND = pytest.StashKey[list[str]]()

_minted: set[bytes] = set()
_on_stderr: list[str] = []


def minted(token: str) -> str:
    """A client key that works in this run; it is looked for from now on."""
    _minted.add(token.encode())
    return token


def leaks(data: bytes, *, keys: bool = True) -> Iterator[str]:
    """What of it should not be there. Commands print the key that they have made: `keys` leaves those out."""
    for canary in ALWAYS:
        if canary in data:
            yield canary.decode()
    if keys and b"k-gw-" in data:
        for token in set(KEY.findall(data)) & _minted:
            yield f"{token[:16].decode()}..."


def leaks_of(sections: Iterable[tuple[str, str]]) -> Iterator[str]:
    """In what pytest has captured of one test; its own copy of the log has not gone through our filter."""
    for name, text in sections:
        data = text.encode("utf-8", "replace")
        for canary in leaks(Stream.scrub(data) if " log " in name else data, keys="stdout" not in name):
            yield f"{name} holds {canary}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.when == "teardown":
        found = [] if item.get_closest_marker("prints_canaries") else [*leaks_of(report.sections), *_on_stderr]
        _on_stderr.clear()
        if found:
            report.outcome = "failed"
            report.longrepr = f"{item.nodeid} printed what must not be seen: {'; '.join(found)}"
    return report


@pytest.fixture(autouse=True, scope="session")
def _read_by_tests() -> Iterator[None]:
    """What a test takes out of the capture is missing from its report."""
    patched = pytest.MonkeyPatch()
    real = pytest.CaptureFixture.readouterr

    def readouterr(self: "pytest.CaptureFixture[str]") -> object:
        result = real(self)
        err: str | bytes = result.err
        data = err.encode("utf-8", "replace") if isinstance(err, str) else err
        _on_stderr.extend(f"standard error holds {canary}" for canary in leaks(data))
        return result

    patched.setattr(pytest.CaptureFixture, "readouterr", readouterr)
    yield
    patched.undo()


def pytest_sessionfinish(session: pytest.Session) -> None:
    config = session.config
    found = config.stash.setdefault(FOUND, [])
    # Of several processes each looks through its own directory: only it knows which keys it has made.
    base = getattr(getattr(config, "_tmp_path_factory", None), "_basetemp", None)
    if base is not None and not config.pluginmanager.hasplugin("dsession"):
        found += leaks_below(base)
    if hasattr(config, "workeroutput"):
        config.workeroutput["leaks"] = found
    elif found:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Of xdist: a process has ended."""
    node.config.stash.setdefault(FOUND, []).extend(getattr(node, "workeroutput", {}).get("leaks", []))


def leaks_below(folder: Path) -> Iterator[str]:
    """In the files that the tests' servers have left."""
    for file in folder.rglob("*"):
        if file.suffix in WRITTEN_BY_TESTS or "node_modules" in file.parts or file.is_symlink() or not file.is_file():
            continue
        if file.stat().st_size <= LARGEST:
            for canary in leaks(file.read_bytes(), keys=file.suffix in (".log", ".journal")):
                yield f"{file} holds {canary}"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for line in config.stash.get(FOUND, []):
        terminalreporter.write_line(f"LEAK: {line}", red=True)
