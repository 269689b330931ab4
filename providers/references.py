"""Secrets that stay where they are: `env:NAME` is read by each process, and nothing is stored (pure)."""

import os
import re
from collections.abc import Mapping
from pathlib import Path

from providers.secret import Secret

FORM = re.compile(r"env:[A-Za-z_][A-Za-z0-9_]*\Z")


class BadReference(Exception):
    """The reference is not of a known form, or there is nothing where it points. The message names no value."""


def check(reference: str) -> None:
    """Raises BadReference where the text is not of the form env:NAME."""
    if reference.startswith("ssm:"):
        raise BadReference("ssm: references need the aws extra, which is not part of this installation: use env:NAME")
    if not FORM.match(reference):
        raise BadReference("a reference is of the form env:NAME")


def resolve(reference: str, environ: Mapping[str, str] = os.environ) -> Secret:
    """The value of the variable NAME, or of the file that NAME_FILE names, stripped; raises BadReference."""
    check(reference)
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
    return Secret(value)
