"""What a start on Lambda imports: by name and number, since seconds depend on the machine."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.proxysite.commands import ROOT, environment, production

START = """
import sys
from proxysite import onlambda
onlambda.site()
print("\\n".join(sorted(sys.modules)))
"""
NEVER = {
    *("boto3", "botocore", "openai", "sentry_sdk", "uvicorn", "uvloop", "pytest", "django_stubs_ext"),
    *("apig_wsgi.compat.typing", "tiktoken", "pandas", "numpy", "requests", "samtranslator"),
}
# Django's own admin comes with django-simple-history's models; the pages do not.
ADMIN = {"providers.admin", "ledger.admin"}
WITHOUT_DATABASE = {"yaml", "psycopg", "sqlite3", "proxysite.chores", *ADMIN}


def modules(folder: Path, **values: str) -> set[str]:
    given = environment(folder, {"AWS_LAMBDA_RUNTIME_API": "127.0.0.1:9", "AWS_REGION": "eu-west-1", **values})
    done = subprocess.run(
        [sys.executable, "-c", START], cwd=ROOT, env=given, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def under(names: set[str], found: set[str]) -> set[str]:
    """Those of `found` that are in `names` or below one of them."""
    return {name for name in found if any(name == one or name.startswith(f"{one}.") for one in names)}


def test_without_a_database_little_is_imported(tmp_path: Path) -> None:
    found = modules(tmp_path)
    assert under(NEVER | WITHOUT_DATABASE, found) == set()
    assert {"gateway.pipeline", "gateway.endpoints.chat", "aiohttp"} <= found
    assert len(found) < 1150


@pytest.mark.parametrize(("admin", "expected"), [("0", set()), ("1", ADMIN)])
def test_the_admin_is_imported_only_where_it_is_on(tmp_path: Path, admin: str, expected: set[str]) -> None:
    values = production(DATABASE_URL="postgresql://nobody@127.0.0.1:9/none", GATEWAY_ADMIN=admin)
    found = modules(tmp_path, **values)
    assert ADMIN & found == expected
    assert under(NEVER, found) == set()
    assert len(found) < 1450
