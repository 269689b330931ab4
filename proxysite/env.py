"""The process's environment, read once and typed: each value from NAME, or from the file that NAME_FILE names."""

import base64
import binascii
import json
import os
import secrets
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import django
import environ
import msgspec
from django.core.exceptions import ImproperlyConfigured

from providers import references
from providers.keychain import FORM, Keychain, is_wrapped

BASE_DIR = Path(__file__).resolve().parent.parent
DEVELOPMENT_FILE = "development.json"
DEVELOPMENT_COMMANDS = frozenset({"runserver", "quickstart"})
PRODUCTION_COMMANDS = frozenset({"serve"})
MIN_SECRET_BYTES = 32
# Values that stand in this project's or its neighbours' documents: anyone can read them, so they protect nothing.
PUBLISHED = frozenset({"changeme", "change-me", "secret", "insecure", "sk-1234", "password", "example"})

# By the back end, what its mailers' options and Django's former settings are called.
MAIL_OPTIONS = {
    "smtp": {
        "host": "EMAIL_HOST",
        "port": "EMAIL_PORT",
        "username": "EMAIL_HOST_USER",
        "password": "EMAIL_HOST_PASSWORD",
        "use_tls": "EMAIL_USE_TLS",
        "use_ssl": "EMAIL_USE_SSL",
        "timeout": "EMAIL_TIMEOUT",
    },
    "filebased": {"file_path": "EMAIL_FILE_PATH"},
}

reader = environ.FileAwareEnv()


def place(name: str, default: str = "") -> str:
    """The variable as text, stripped; `default` where it is unset or empty."""
    value: str = reader.str(name, default=default)
    return value.strip() or default


def text(name: str, default: str = "") -> str:
    """As `place`, but for `ssm:NAME` the value of that SSM parameter; raises BadReference where there is none."""
    value = place(name, default)
    return references.resolve(value).reveal() if value.startswith(references.SSM) else value


def on_lambda() -> bool:
    """Whether this process is one of AWS Lambda, where the disk dies with it and freezes come between requests."""
    return "AWS_LAMBDA_RUNTIME_API" in os.environ


def stateless() -> bool:
    """Whether there is no database at all: on Lambda without one, or where the operator says so."""
    return flag("GATEWAY_STATELESS", default=on_lambda() and not place("DATABASE_URL"))


def lambda_hosts() -> list[str]:
    """The names under which AWS serves functions in this region."""
    region = os.environ.get("AWS_REGION", "")
    return [f".lambda-url.{region}.on.aws", f".execute-api.{region}.amazonaws.com"] if region else []


def flag(name: str, *, default: bool) -> bool:
    value: bool = reader.bool(name, default=default)
    return value


def number(name: str, default: int) -> int:
    value: int = reader.int(name, default=default)
    return value


def choice(name: str, words: tuple[str, ...], default: str) -> str:
    """One of `words`; raises ImproperlyConfigured, naming the variable, for another."""
    value = place(name, default).lower()
    if value not in words:
        raise ImproperlyConfigured(f"{name} is one of {', '.join(words)}.")
    return value


def words(name: str, default: str = "") -> list[str]:
    """A comma-separated list, blanks dropped."""
    return [word.strip() for word in text(name, default).split(",") if word.strip()]


def lines(name: str) -> list[str]:
    """One value a line, blank lines dropped."""
    return [line.strip() for line in text(name).splitlines() if line.strip()]


def data_dir() -> Path:
    return Path(place("GATEWAY_DATA_DIR", "/tmp/gateway" if on_lambda() else str(BASE_DIR / "data")))  # noqa: S108


def is_development_command(command: str) -> bool:
    """Whether `manage.py COMMAND` runs in development when DJANGO_DEBUG says nothing.

    `quickstart` and `runserver` do. So does every other command but `serve` where quickstart has left its secrets in
    the data directory: `manage.py create_client_key` must reach the same keys as the server that it is meant for.
    """
    if command in PRODUCTION_COMMANDS:
        return False
    return command in DEVELOPMENT_COMMANDS or (data_dir() / DEVELOPMENT_FILE).exists()


def mail_settings(name: str, default: str, *, timeout: float) -> dict[str, Any]:
    """Django's own for the mail server of that URL; `timeout` in seconds. Since Django 6.1 they are one, MAILERS."""
    found: dict[str, Any] = {**reader.email_url(name, default=default), "EMAIL_TIMEOUT": timeout}
    if django.VERSION < (6, 1):
        return found
    backend = found["EMAIL_BACKEND"]
    known = MAIL_OPTIONS.get(backend.split(".")[-2], {})
    options = {option: found[setting] for option, setting in known.items() if setting in found}
    return {"MAILERS": {"default": {"BACKEND": backend, "OPTIONS": options}}}


class Problem(msgspec.Struct, frozen=True):
    """Why a start is refused: the variable, what is wrong with it, and what to do."""

    name: str
    wrong: str
    hint: str


def refusal(problems: Iterable[Problem]) -> str:
    """The problems as lines for the operator."""
    lines = [f"- {problem.name} {problem.wrong}. {problem.hint}".rstrip() for problem in problems]
    return "\n".join(["Refusing to start:", *lines])


class Secrets(msgspec.Struct, frozen=True):
    """Django's key, the credential encryption keys and the client-key peppers; the first of each is for writing."""

    django_key: str
    encryption_keys: Mapping[str, bytes]
    key_peppers: Mapping[str, bytes]
    problems: tuple[Problem, ...] = msgspec.field(default=())


def load_secrets(*, development: bool) -> Secrets:
    """Read the three secrets; in development, make and keep those that are missing."""
    made = _development_values() if development else {}
    django_key = text("DJANGO_SECRET_KEY") or made.get("DJANGO_SECRET_KEY", "")
    problems: list[Problem] = []
    wrapped: dict[str, str] = {}
    bare = _keyring("GATEWAY_ENCRYPTION_KEYS", made, problems, wrapped)
    encryption_keys = Keychain(bare, wrapped) if wrapped else bare
    key_peppers = _keyring("GATEWAY_KEY_PEPPERS", made, problems)
    if not django_key:
        problems.append(Problem("DJANGO_SECRET_KEY", "is not set", _hint("DJANGO_SECRET_KEY")))
    elif len(django_key) < MIN_SECRET_BYTES or django_key.lower() in PUBLISHED or len(set(django_key)) < 8:
        problems.append(Problem("DJANGO_SECRET_KEY", "is too short or easily guessed", _hint("DJANGO_SECRET_KEY")))
    values = [django_key.encode(), *bare.values(), *key_peppers.values()]
    values = [value for value in values if value]
    if len(set(values)) != len(values):
        names = "DJANGO_SECRET_KEY, GATEWAY_ENCRYPTION_KEYS, GATEWAY_KEY_PEPPERS"
        problems.append(Problem(names, "hold the same value twice", "Each protects something else: make each anew."))
    return Secrets(django_key, encryption_keys, key_peppers, tuple(problems))


def no_secrets() -> Secrets:
    """For a process that stores nothing: what Django signs with is made up, and dies with the process."""
    return Secrets(secrets.token_urlsafe(50), {}, {})


def _keyring(
    name: str, made: Mapping[str, str], problems: list[Problem], wrapped: dict[str, str] | None = None
) -> dict[str, bytes]:
    """By id; of what is `wrapped`, where that may be, the bytes are empty."""
    value = text(name) or made.get(name, "")
    if not value:
        problems.append(Problem(name, "is not set", _hint(name)))
    ring: dict[str, bytes] = {}
    for word in filter(None, (part.strip() for part in value.split(","))):
        key_id, colon, encoded = word.partition(":")
        try:
            key = base64.b64decode(encoded, validate=True)
        except (binascii.Error, ValueError):
            key = b""
        if not colon or not key_id or not key_id.isalnum():
            problems.append(Problem(name, "has an entry that is not of the form id:base64", _hint(name)))
        elif key_id in ring:
            problems.append(Problem(name, f"has the id {key_id!r} twice", _hint(name)))
        elif wrapped is not None and is_wrapped(encoded):
            ring[key_id], wrapped[key_id] = b"", encoded.removeprefix(FORM)
        elif len(key) != MIN_SECRET_BYTES or len(set(key)) < 8:
            problems.append(Problem(name, f"entry {key_id!r} is not 32 random bytes in base64", _hint(name)))
        else:
            ring[key_id] = key
    return ring


def _hint(name: str) -> str:
    if name == "DJANGO_SECRET_KEY":
        return "Set it to 50 random characters: python -c 'import secrets; print(secrets.token_urlsafe(50))'"
    one = 'import base64, secrets; print("k1:" + base64.b64encode(secrets.token_bytes(32)).decode())'
    return f"Set {name} to id:base64 of 32 random bytes: python -c '{one}'"


def _development_values() -> dict[str, str]:
    """The secrets of a development machine: made once, kept in the data directory, readable by its owner only."""
    path = data_dir() / DEVELOPMENT_FILE
    try:
        kept: dict[str, str] = json.loads(path.read_text())
    except FileNotFoundError:
        kept = {}
    else:
        return kept
    kept = {
        "DJANGO_SECRET_KEY": secrets.token_urlsafe(50),
        "GATEWAY_ENCRYPTION_KEYS": f"dev:{base64.b64encode(secrets.token_bytes(32)).decode()}",
        "GATEWAY_KEY_PEPPERS": f"dev:{base64.b64encode(secrets.token_bytes(32)).decode()}",
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        # Two processes may start at once: the first to create the file decides, the other reads it.
        with os.fdopen(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
            json.dump(kept, file)
    except FileExistsError:
        kept = json.loads(path.read_text())
    return kept


def under_test() -> bool:
    return "pytest" in sys.modules
