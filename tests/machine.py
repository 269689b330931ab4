"""What some tests need beyond Python: they are left out where it is missing, one line for each, or in CI refused.

A test says so with a marker (`pytest.mark.postgres`); nobody writes a skip. Under `CI=true` a missing need ends the run
before any test, because a machine that quietly tests less proves nothing.
"""

import os
import pwd
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest
from psycopg import sql

POSTGRES_URL = os.environ.get("TEST_POSTGRES_URL", "postgresql://postgres@127.0.0.1:5432/postgres")
CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
REDIS = ("redis-server", "valkey-server")
LEFT_OUT = pytest.StashKey[list[str]]()


@dataclass(frozen=True)
class Need:
    """`missing` gives the reason why the machine does not have it, or ""."""

    marker: str
    name: str
    missing: Callable[[], str]


def missing_node() -> str:
    absent = [name for name in ("node", "npm") if shutil.which(name) is None]
    if absent:
        return f"no {' and no '.join(absent)} on the PATH"
    version = subprocess.run(["node", "--version"], capture_output=True, text=True, check=False).stdout.strip()
    return "" if int(version.lstrip("v").partition(".")[0] or 0) >= 18 else f"node is {version}, not 18 or newer"


def missing_postgres() -> str:
    try:
        psycopg.connect(POSTGRES_URL, connect_timeout=3).close()
    except psycopg.OperationalError:
        return "no server answers at TEST_POSTGRES_URL, or at 127.0.0.1:5432 where that is not set"
    return ""


def postgres_binaries() -> list[Path]:
    """Of Debian's packages; the newest is the last."""
    return sorted(Path("/usr/lib/postgresql").glob("*/bin"))


def pgvector_binaries() -> Path | None:
    """Those of a PostgreSQL with pgvector: the package pgserver's, else Debian's where it has it."""
    package = find_spec("pgserver")
    if package is not None and package.submodule_search_locations:
        return Path(package.submodule_search_locations[0]) / "pginstall" / "bin"
    shares = Path("/usr/share/postgresql")
    found = [one for one in postgres_binaries() if (shares / one.parent.name / "extension/vector.control").exists()]
    return found[-1] if found else None


def missing_pgvector() -> str:
    if pgvector_binaries() is None:
        return "neither the package pgserver, which Python 3.13 has not, nor Debian's postgresql-*-pgvector"
    if os.geteuid() == 0 and not any(user.pw_name == "postgres" for user in pwd.getpwall()):
        return "PostgreSQL refuses to run as root, and there is no user postgres"
    return ""


def redis_path() -> str | None:
    return next(filter(None, map(shutil.which, REDIS)), None)


def missing_redis() -> str:
    return "" if redis_path() else f"none of {', '.join(REDIS)} on the PATH"


def chromium_path() -> str | None:
    return next(filter(None, map(shutil.which, CHROMIUM)), None)


def missing_chromium() -> str:
    return "" if chromium_path() else f"none of {', '.join(CHROMIUM)} on the PATH"


def sam_python() -> str | None:
    """The interpreter that the SAM CLI runs under, with the translator and AWS's emulator among its packages."""
    sam = shutil.which("sam")
    if sam is None:
        return None
    with open(sam, encoding="utf-8") as script:
        return script.readline().removeprefix("#!").strip()


def missing_sam() -> str:
    return "" if sam_python() else "no sam on the PATH (pip install aws-sam-cli, in an environment of its own)"


def missing_builder() -> str:
    absent = [name for name in ("buildah", "mmdebstrap") if shutil.which(name) is None]
    if absent:
        return f"no {' and no '.join(absent)} on the PATH"
    return "" if os.geteuid() == 0 else "not run as root"


def missing_mount() -> str:
    tried = subprocess.run(
        ["unshare", "--mount", "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True, check=False
    )
    return "" if tried.returncode == 0 else "not root, or not allowed to mount"


NEEDS = (
    Need("node", "Node.js 18 and npm", missing_node),
    Need("postgres", "PostgreSQL", missing_postgres),
    Need("pgvector", "PostgreSQL with pgvector", missing_pgvector),
    Need("redis", "Redis", missing_redis),
    Need("browser", "Chromium", missing_chromium),
    Need("sam", "the AWS SAM CLI", missing_sam),
    Need("mount", "the right to mount a file system", missing_mount),
    Need("builder", "buildah, mmdebstrap and root", missing_builder),
)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    lines = config.stash.setdefault(LEFT_OUT, [])
    for need in NEEDS:
        wanting = [item for item in items if item.get_closest_marker(need.marker)]
        reason = need.missing() if wanting else ""
        if not reason:
            continue
        line = f"{len(wanting)} test{'s' * (len(wanting) > 1)} left out: needs {need.name} ({reason})"
        if os.environ.get("CI") == "true":
            raise pytest.UsageError(f"CI=true, and {line.replace('left out', 'would be left out')}")
        lines.append(line)
        items[:] = [item for item in items if item not in wanting]
        config.hook.pytest_deselected(items=wanting)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for line in config.stash.get(LEFT_OUT, []):
        terminalreporter.write_line(line)


@contextmanager
def empty_database(server: str) -> Iterator[str]:
    """The URL of an empty database there; it is dropped afterwards, open connections or not."""
    name = f"test_{uuid4().hex[:12]}"
    with psycopg.connect(server, autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        yield server.partition("?")[0].rpartition("/")[0] + f"/{name}"
        admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture
def postgres_url() -> Iterator[str]:
    """The URL of an empty database of this test's own."""
    with empty_database(POSTGRES_URL) as url:
        yield url


@pytest.fixture(scope="session")
def pgvector_server() -> Iterator[str]:
    """The URL of a PostgreSQL of this run's own, which has pgvector."""
    from tests.cluster import Cluster

    with Cluster(pgvector_binaries()) as cluster:
        yield cluster.url


@pytest.fixture
def pgvector_url(pgvector_server: str) -> Iterator[str]:
    """The URL of an empty database of this test's own, whose server has pgvector."""
    with empty_database(pgvector_server) as url:
        yield url


@pytest.fixture
def chromium() -> str:
    """The path of the browser, for Playwright's `executable_path`."""
    path = chromium_path()
    assert path is not None
    return path
