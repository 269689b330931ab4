"""Secrets that stay where they are: each process reads `env:NAME` or `ssm:NAME`, and nothing is stored (pure)."""

import os
import re
from collections.abc import Mapping
from pathlib import Path

from providers import awscalls
from providers.secret import Secret

FORM = re.compile(r"env:[A-Za-z_][A-Za-z0-9_]*\Z|ssm:[A-Za-z0-9_.\-/]{1,1000}\Z")
SSM = "ssm:"


class BadReference(Exception):
    """The reference is not of a known form, or there is nothing where it points. The message names no value."""


def check(reference: str) -> None:
    """Raises BadReference where the text is of neither form."""
    if not FORM.match(reference):
        raise BadReference("a reference is of the form env:NAME or ssm:NAME")


def resolve(reference: str, environ: Mapping[str, str] = os.environ) -> Secret:
    """The value of the SSM parameter; or of the variable, or the file that NAME_FILE names. Stripped.

    A variable may itself hold `ssm:NAME`, so that a function's environment shows names only. Raises BadReference.
    """
    check(reference)
    if reference.startswith(SSM):
        return _parameter(reference, environ)
    name = reference.removeprefix("env:")
    value = environ.get(name, "").strip()
    path = environ.get(f"{name}_FILE", "")
    if not value and path:
        try:
            value = Path(path).read_text(encoding="utf-8").strip()
        except (OSError, ValueError):
            raise BadReference(f"the file that {name}_FILE names cannot be read") from None
    if not value:
        raise BadReference(f"the environment variable {name} is not set")
    if value.startswith(SSM) and FORM.match(value):
        return _parameter(value, environ)
    return Secret(value)


def _parameter(reference: str, environ: Mapping[str, str]) -> Secret:
    name = reference.removeprefix(SSM)
    try:
        value = awscalls.parameter(name, environ).strip()
    except awscalls.CallFailed as error:
        raise BadReference(str(error)) from None
    if not value:
        raise BadReference(f"the SSM parameter {name} is empty")
    return Secret(value)
