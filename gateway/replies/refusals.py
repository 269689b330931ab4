"""A provider's refusal, whatever its shape, as OpenAI's envelope: message a string, code a string or null.

https://platform.openai.com/docs/guides/error-codes. The provider's 401 and 403 are about the gateway's credential and
not about the client's key, so the client gets a 502 with the code `upstream_auth_failed`; waiting does not mend that.
"""

import email.utils
import json
import math
import re
import time
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import quote

import msgspec
from msgspec.structs import replace

from gateway.errors import UpstreamRefused
from providers.targets import NO_QUIRKS, Quirks

AUTH_FAILED = "upstream_auth_failed"
OUT_OF_CREDIT = frozenset({"insufficient_quota", "credit_balance_exhausted"})

MAX_MESSAGE = 4_000  # characters of a message that came as JSON
MAX_FOREIGN_TEXT = 200  # characters of a body that is no JSON
MAX_ORIGINAL = 2_000
MAX_DEPTH = 8  # of what stands for a message
TOO_DEEP = "..."
MAX_WAIT = 86_400  # seconds; a longer `retry-after` is taken for junk
PATIENCE = 60  # seconds; clients do not wait longer, they only ask again too soon
MIN_SECRET = 4  # characters; to mask a shorter one would blacken any text

# What reads like a credential, ours or not: OpenAI repeats the key it refuses, in part or whole.
CREDENTIAL = re.compile(
    r"(?i:\bbearer\s+)[^\s\"',;\\]+"
    r"|\b(?:sk|pk|ek|gsk|hf|r8|pb|xai|fw)[-_][A-Za-z0-9_\-*.]{8,}"
    r"|\bAIza[A-Za-z0-9_\-]{20,}"
)


class Complaint(msgspec.Struct, frozen=True):
    """What a provider said is wrong. `status` is an HTTP status that stood in the body."""

    message: str
    type: str | None = None
    param: str | None = None
    code: str | None = None
    status: int | None = None

    @property
    def is_about_credit(self) -> bool:
        return self.code in OUT_OF_CREDIT or self.type in OUT_OF_CREDIT or self.status == 402


def refusal(
    status: int,
    headers: Mapping[str, str],
    body: bytes,
    secrets: Iterable[str] = (),
    quirks: Quirks = NO_QUIRKS,
) -> UpstreamRefused:
    """The error for an upstream answer whose status is not 200. Nothing in it holds one of `secrets`.

    `quirks` say where the provider's message stands, and which of its statuses mean something else.
    """
    secrets = tuple(secrets)
    text = mask(body.decode("utf-8", "replace"), secrets)
    complaint = _read_body(text, quirks.error_paths) or Complaint(_foreign(status, text))
    rule = quirks.errors.get(status)
    if rule is None:
        return refuse(complaint, status, headers=headers, secrets=secrets, original=text)
    complaint = replace(complaint, code=rule.code or complaint.code, type=rule.type or complaint.type)
    error = refuse(complaint, rule.status or status, headers=headers, secrets=secrets, original=text)
    error.upstream_status = status
    return error


def refuse(
    complaint: Complaint,
    status: int,
    *,
    headers: Mapping[str, str] | None = None,
    secrets: Iterable[str] = (),
    original: str = "",
) -> UpstreamRefused:
    """The error for a complaint that came with this status, in a body or within a stream."""
    secrets = tuple(secrets)
    kind, param, code = (_masked(part, secrets) for part in (complaint.type, complaint.param, complaint.code))
    message = _one_message(mask(complaint.message, secrets), status)
    retry = _retry_headers(headers or {})
    shown = status if 400 <= status <= 599 and status != 407 else 502
    if status in (401, 403):
        shown, kind, code = 502, "upstream_error", AUTH_FAILED
        retry["x-should-retry"] = "false"
        if status == 401:
            message = (
                "The provider refused the credential that the gateway has for it; the gateway's operator has to act."
            )
    elif complaint.is_about_credit or status == 402:
        retry["x-should-retry"] = "false"
    return UpstreamRefused(
        message,
        status=shown,
        type=kind,
        param=param,
        code=code,
        headers=retry,
        upstream_status=status,
        original=mask(original, secrets)[:MAX_ORIGINAL],
    )


def read_complaint(value: object) -> Complaint | None:
    """The complaint in a decoded JSON body or event; None where it holds none.

    Knows OpenAI's envelope, vLLM's flat object, FastAPI's `detail`, LoRAX's and TGI's `error` and `error_type`,
    Gemini's array, Mistral's object for a message, OpenRouter's numbers for codes.
    """
    if isinstance(value, list):
        return read_complaint(value[0]) if value and not isinstance(value[0], list) else None
    if not isinstance(value, Mapping):
        return None
    error = value.get("error")
    if isinstance(error, str) and error:
        if isinstance(value.get("message"), str):  # Spring's {"error": "Not Found", "message": "..."}
            return _complaint(value, error)
        return Complaint(error, type=_word(value.get("error_type")), status=_http_status(value))
    if isinstance(error, Mapping):
        return _complaint(error, "The provider gave no reason.")
    for name in ("message", "Message", "detail", "errors"):
        if value.get(name):
            return _complaint(value, "The provider gave no reason.")
    return None


def mask(text: str, secrets: Iterable[str] = ()) -> str:
    """The text with `***` for each of `secrets`, spelled plainly, as in a URL or in JSON, and for what looks alike."""
    for secret in secrets:
        if len(secret) >= MIN_SECRET:
            for spelling in {secret, quote(secret, safe=""), json.dumps(secret)[1:-1]}:
                text = text.replace(spelling, "***")
    return CREDENTIAL.sub("***", text)


def _masked(text: str | None, secrets: tuple[str, ...]) -> str | None:
    return None if text is None else mask(text, secrets)[:MAX_FOREIGN_TEXT]


def _read_body(text: str, paths: tuple[tuple[str, ...], ...]) -> Complaint | None:
    try:
        value = msgspec.json.decode(text.strip())
        for path in paths:
            found = value
            for step in path:
                found = found.get(step) if isinstance(found, Mapping) else None
            if found:
                known = read_complaint(value) or Complaint("")
                return replace(known, message=_sentence(found)[0])
        return read_complaint(value)
    except (ValueError, RecursionError):
        return None


def _foreign(status: int, text: str) -> str:
    text = text.strip()
    if not text or text[0] in "{[":
        return f"The provider answered {status} and gave no reason."
    return text[:MAX_FOREIGN_TEXT]


def _one_message(message: str, status: int) -> str:
    """A page of HTML, bare or wrapped in JSON, is nothing that a client could show."""
    if message.lstrip()[:1] == "<" or "<html" in message.lower() or "<!doctype" in message.lower():
        return f"The provider answered {status} with a web page instead of an error that could be passed on."
    return message[:MAX_MESSAGE]


def _complaint(error: Mapping[str, Any], default: str) -> Complaint:
    message, param = default, _word(error.get("param"))
    for name in ("message", "Message", "detail", "errors"):
        if value := error.get(name):
            message, place = _sentence(value)
            param = param or place
            break
    code = error.get("code")
    # A number repeats the HTTP status (vLLM, Gemini, OpenRouter); Gemini's word for it stands in `status`.
    word = code if isinstance(code, str) and code and not code.isdigit() else _word(error.get("status"))
    return Complaint(message, _word(error.get("type")), param, word, _http_status(error))


def _sentence(value: object, depth: int = MAX_DEPTH) -> tuple[str, str | None]:
    """A message as text, and the parameter that it names: FastAPI lists `{"loc": ["body", "stop"], "msg": "..."}`."""
    if isinstance(value, str):
        return value, None
    if not depth:
        return TOO_DEEP, None
    if isinstance(value, list):
        parts = [_sentence(item, depth - 1) for item in value[:10]]
        places = [place for _, place in parts if place]
        return "; ".join(text for text, _ in parts), places[0] if places else None
    if isinstance(value, Mapping):
        for name in ("msg", "message", "detail", "error"):
            if inner := value.get(name):
                text, place = _sentence(inner, depth - 1)
                where = value.get("loc")
                if isinstance(where, list):
                    place = ".".join(str(step) for step in where if step != "body") or place
                return (f"{place}: {text}" if place and isinstance(where, list) else text), place
    try:
        return msgspec.json.encode(value).decode(), None
    except RecursionError:
        return TOO_DEEP, None


def _word(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _http_status(error: Mapping[str, Any]) -> int | None:
    for name in ("http_status_code", "status_code", "status", "code"):
        value = error.get(name)
        if isinstance(value, str) and value.isdecimal() and len(value) == 3:
            value = int(value)
        if isinstance(value, int) and 400 <= value <= 599:
            return value
    return None


def _retry_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """The provider's own retry headers where they make sense, and `x-should-retry: false` for a wait over 60 s."""
    given = {name.lower(): value.strip() for name, value in headers.items()}
    kept: dict[str, str] = {}
    waits: list[float] = []
    for name, unit in (("retry-after", 1.0), ("retry-after-ms", 0.001)):
        value = given.get(name, "")
        seconds = _seconds(value) if unit == 1.0 else _number(value) * unit
        if 0 <= seconds <= MAX_WAIT:
            kept[name] = value
            waits.append(seconds)
    if given.get("x-should-retry") in ("true", "false"):
        kept["x-should-retry"] = given["x-should-retry"]
    if waits and max(waits) > PATIENCE:
        kept["x-should-retry"] = "false"
    return kept


def _seconds(value: str) -> float:
    """The wait in seconds of a number or an HTTP date (https://www.rfc-editor.org/rfc/rfc9110#name-retry-after)."""
    if value[:1].isalpha():
        try:
            return email.utils.parsedate_to_datetime(value).timestamp() - time.time()
        except (ValueError, OverflowError):
            return -1.0
    return _number(value)


def _number(value: str) -> float:
    """A plain decimal number; -1 for anything else."""
    if not value or len(value) > 20 or not value.replace(".", "", 1).isdecimal() or not value.isascii():
        return -1.0
    number = float(value)
    return number if math.isfinite(number) else -1.0
