"""The search of all output finds what it is there for."""

from pathlib import Path

import pytest

from tests import canaries
from tests.gateway import house
from tests.providers.conftest import fresh

__all__ = ["fresh"]


@pytest.mark.usefixtures("fresh")  # a catalog that still holds the token would have the log scrubbed of it
@pytest.mark.parametrize("canary", [canaries.PROVIDER_TOKEN, canaries.PROMPT, f"... {canaries.ANSWER} ..."])
def test_a_canary_in_any_section_is_found(canary: str) -> None:
    for name in ("Captured stdout call", "Captured stderr setup", "Captured log teardown"):
        assert len(list(canaries.leaks_of([(name, f'{{"event": "{canary}"}}')]))) == 1
    assert not list(canaries.leaks_of([("Captured log call", "nothing of that kind")]))


@pytest.mark.django_db
def test_a_clients_key_is_found_but_where_a_command_prints_it() -> None:
    token = house.client_key()[1]
    assert list(canaries.leaks_of([("Captured stderr call", f"key={token}")])) == [
        f"Captured stderr call holds {token[:16]}..."
    ]
    assert not list(canaries.leaks_of([("Captured stdout call", token)]))
    assert not list(canaries.leaks_of([("Captured stderr call", token[:-1] + "#")]))


def test_the_files_of_servers_are_looked_through(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "server.log").write_text(f"refused {canaries.PROVIDER_TOKEN}")
    (tmp_path / "gateway.yaml").write_text(canaries.PROVIDER_TOKEN)
    assert len(list(canaries.leaks_below(tmp_path))) == 1
    (tmp_path / "inner" / "server.log").unlink()  # the whole run's own search comes later


INNER = """
import logging, os, sys
def test_error(): sys.stderr.write({canary!r})
def test_descriptor(): os.write(1, {canary!r}.encode())
def test_record(): logging.getLogger("x").debug("said %s", {prompt!r})
def test_taken(capfd):
    sys.stderr.write({canary!r})
    capfd.readouterr()
def test_nothing(): pass
"""


@pytest.mark.prints_canaries
def test_a_test_that_prints_a_canary_fails(pytester: pytest.Pytester) -> None:
    inner = pytester.makepyfile(INNER.format(canary=canaries.PROVIDER_TOKEN, prompt=canaries.PROMPT))
    pytester.makeini("[pytest]\nlog_level = DEBUG\nasyncio_default_fixture_loop_scope = function")
    result = pytester.runpytest_inprocess("-p", "tests.canaries", "-p", "no:django")
    result.assert_outcomes(passed=5, errors=4)
    inner.unlink()


LEFT = """
from tests import canaries
TOKEN = "sk-gw-" + "A" * 10 + "-" + "B" * 49
def test_first(tmp_path): (tmp_path / "server.log").write_text(canaries.minted(TOKEN))
def test_second(): pass
"""


@pytest.mark.prints_canaries
@pytest.mark.parametrize("processes", ["0", "2"])
def test_what_is_left_in_a_file_fails_the_run_however_many_processes_it_has(
    processes: str, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = pytester.makepyfile(LEFT)
    pytester.makeini("[pytest]\nasyncio_default_fixture_loop_scope = function")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent.parent))
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)
    result = pytester.runpytest_subprocess("-p", "tests.canaries", "-p", "no:django", "-n", processes)
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["LEAK: *server.log holds sk-gw-AAAAAAAAAA..."])
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    for file in [inner, *pytester.path.parent.rglob("server.log")]:
        file.unlink()
