"""The environment of all tests: development, with a data directory that dies with the run.

It is set here, at import, because the settings read it once; so pytest's configuration names no settings module.
"""

import atexit
import os
import shutil
import tempfile

import django

from tests.machine import (
    chromium,
    pgvector_server,
    pgvector_url,
    postgres_url,
    pytest_collection_modifyitems,
    pytest_terminal_summary,
)

__all__ = ["chromium", "pgvector_server", "pgvector_url", "postgres_url"]
__all__ += ["pytest_collection_modifyitems", "pytest_terminal_summary"]

pytest_plugins = ["pytester"]

# What a developer has in the shell must not decide what a test sees, nor may a test reach a real database or provider.
OURS = ("DJANGO_", "GATEWAY_", "OPENAI_", "DATABASE_URL", "REDIS_URL")
for name in [name for name in os.environ if name.startswith(OURS)]:
    del os.environ[name]

DATA_DIR = tempfile.mkdtemp(prefix="gateway-tests-")
atexit.register(shutil.rmtree, DATA_DIR, ignore_errors=True)
os.environ.update(DJANGO_SETTINGS_MODULE="proxysite.settings", DJANGO_DEBUG="1", GATEWAY_DATA_DIR=DATA_DIR)
os.environ["GATEWAY_LOG_LEVEL"] = "debug"  # what is written then is looked through too (tests/canaries.py)
# Test files import models at their head; pytest-django would set Django up only after it saw the settings in use.
django.setup()
