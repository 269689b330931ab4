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
    *("certifi", "packaging", "csp.checks"),
    *("apig_wsgi", "httpx._main", "click", "jwt", "tiktoken", "pandas", "numpy", "requests", "samtranslator"),
}
# Django's own admin comes with django-simple-history's models; the pages are made when the first is asked for.
PAGES = {
    *("providers.admin", "ledger.admin", "proxysite.signin", "proxysite.urls", "django.contrib.auth.admin"),
    *("console.usage", "console.sums", "console.charts", "console.groupings", "console.spans", "console.numbers"),
    *("django.contrib.auth.forms", "django.contrib.staticfiles.handlers", "whitenoise"),
}
# What a setting, an alias or a provider's row has to ask for.
FEATURES = {
    *("gateway.tracing.export", "gateway.capturing", "gateway.echo.chat", "gateway.echo.files"),
    *("gateway.explaining", "gateway.status", "tomllib"),
    *("gateway.caching.batches", "gateway.caching.redis", "proxysite.metricspage", "proxysite.statuspage"),
}
NEVER |= PAGES | FEATURES
WITHOUT_DATABASE = {"yaml", "psycopg", "sqlite3", "redis", "simple_history.admin", "proxysite.chores", "cryptography"}
OWN = {"console", "gateway", "ledger", "providers", "proxysite"}
CLASSES = """
import sys
from proxysite import onlambda
onlambda.site()
for module in list(sys.modules.values()):
    for value in list(vars(module).values()):
        if issubclass(type(value), type) and "__dataclass_fields__" in vars(value):
            print(value.__module__)
"""


def printed(folder: Path, code: str = START, **values: str) -> set[str]:
    given = environment(folder, {"AWS_LAMBDA_RUNTIME_API": "127.0.0.1:9", "AWS_REGION": "eu-west-1", **values})
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=given, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def under(names: set[str], found: set[str]) -> set[str]:
    """Those of `found` that are in `names` or below one of them."""
    return {name for name in found if any(name == one or name.startswith(f"{one}.") for one in names)}


def test_without_a_database_little_is_imported(tmp_path: Path) -> None:
    found = printed(tmp_path)
    assert under(NEVER | WITHOUT_DATABASE, found) == set()
    assert {"gateway.pipeline", "gateway.endpoints.chat", "aiohttp"} <= found
    assert len(found) < 1200


def test_no_class_of_ours_is_written_and_compiled_at_each_start(tmp_path: Path) -> None:
    found = printed(tmp_path, CLASSES)
    assert "structlog.dev" in found
    assert under(OWN, found) == set()


@pytest.mark.parametrize("admin", ["0", "1"])
def test_with_a_database_no_page_of_the_admin_is_imported_before_it_is_asked_for(tmp_path: Path, admin: str) -> None:
    values = production(DATABASE_URL="postgresql://nobody@127.0.0.1:9/none", GATEWAY_ADMIN=admin)
    found = printed(tmp_path, **values)
    assert under(NEVER | {"yaml", "sqlite3", "redis", "proxysite.chores"}, found) == set()
    assert len(found) < 1320


def test_no_collection_of_garbage_runs_while_a_start_imports(tmp_path: Path) -> None:
    code = (
        "import gc\nseen = []\ngc.callbacks.append(lambda phase, info: seen.append(phase))\n"
        "from proxysite.awslambda.__main__ import load\nload()\nprint(len(seen))"
    )
    # The image has all bytecode; here the first start makes what is missing of it, which is work of another kind.
    printed(tmp_path, "import proxysite.awslambda.__main__\nprint(0)")
    assert printed(tmp_path, code) == {"0"}


def test_the_certificates_are_read_once_and_a_context_of_aiohttps_own_would_believe_nobody() -> None:
    code = (
        "import ssl\nfrom proxysite import onlambda\nonlambda.site()\nfrom gateway.upstream import tls\n"
        "from aiohttp import connector\nprint(tls.tls_context.cache_info().currsize,\n"
        "tls.tls_context().get_ca_certs() == tls.tls_context.__wrapped__().get_ca_certs(),\n"
        "len(connector._SSL_CONTEXT_VERIFIED.get_ca_certs()), connector._SSL_CONTEXT_VERIFIED.verify_mode.name,\n"
        "len(connector._SSL_CONTEXT_UNVERIFIED.get_ca_certs()),\n"
        "len(ssl.create_default_context().get_ca_certs()) > 50)"
    )
    values = {"PATH": "/usr/bin:/bin", "AWS_LAMBDA_RUNTIME_API": "127.0.0.1:9"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=values, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout == "1 True 0 CERT_REQUIRED 0 True\n", done.stderr
