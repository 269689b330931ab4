"""A machine without Node.js, PostgreSQL or Chromium runs the rest and says what it left out; CI refuses."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from proxysite.env import BASE_DIR
from tests import machine

SAMPLE = """
import pytest

def test_plain(): pass

@pytest.mark.{marker}
def test_one(): raise AssertionError("it ran")

@pytest.mark.{marker}
def test_two(): raise AssertionError("it ran")
"""
REASONS = {
    "node": "2 tests left out: needs Node.js 18 and npm (no node and no npm on the PATH)",
    "postgres": "2 tests left out: needs PostgreSQL (no server answers at TEST_POSTGRES_URL, "
    "or at 127.0.0.1:5432 where that is not set)",
    "redis": "2 tests left out: needs Redis (none of redis-server, valkey-server on the PATH)",
    "browser": "2 tests left out: needs Chromium (none of chromium, chromium-browser, google-chrome on the PATH)",
}


def run_sample(tmp_path: Path, marker: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run three tests, two of them marked, on a machine with an empty PATH and no server at TEST_POSTGRES_URL."""
    (tmp_path / "test_sample.py").write_text(SAMPLE.format(marker=marker))
    bare = {
        "PATH": str(tmp_path),
        "TEST_POSTGRES_URL": "postgresql://x@127.0.0.1:1/x",
        "CI": "",
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
    }
    (tmp_path / "pytest.ini").write_text(f"[pytest]\nmarkers = {marker}: sample\n")
    options = ["-p", "tests.machine", "-p", "no:cacheprovider"]
    return subprocess.run(
        [sys.executable, "-m", "pytest", *options, "--rootdir", str(tmp_path), str(tmp_path)],
        cwd=BASE_DIR,
        env=os.environ | bare | environ,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.mark.parametrize("marker", REASONS)
def test_what_a_machine_lacks_is_left_out_in_one_line(tmp_path: Path, marker: str) -> None:
    ran = run_sample(tmp_path, marker)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert [line for line in ran.stdout.splitlines() if "left out" in line] == [REASONS[marker]]
    assert "1 passed, 2 deselected" in ran.stdout


@pytest.mark.parametrize("marker", REASONS)
def test_ci_fails_where_something_is_missing(tmp_path: Path, marker: str) -> None:
    ran = run_sample(tmp_path, marker, CI="true")
    assert ran.returncode == pytest.ExitCode.USAGE_ERROR
    assert "ERROR: CI=true, and 2 tests would be left out: needs" in ran.stderr
    assert "passed" not in ran.stdout


def test_pgvector_comes_with_the_package_or_with_debians_postgresql(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "find_spec", lambda name: None)
    monkeypatch.setattr(machine, "postgres_binaries", lambda: [Path("/usr/lib/postgresql/none/bin")])
    assert machine.pgvector_binaries() is None
    assert machine.missing_pgvector().startswith("neither the package pgserver")
