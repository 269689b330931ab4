"""What a prediction says, in the words of Replicate's API (pure): https://replicate.com/docs/reference/http."""

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import msgspec

ENDED = frozenset({"succeeded", "failed", "canceled", "aborted"})
ID = re.compile(r"[A-Za-z0-9]{1,64}\Z")


def is_within(url: object, base_url: str) -> bool:
    """Whether an address that the provider gave lies in its own domain: the token goes nowhere else."""
    if not isinstance(url, str):
        return False
    try:
        there, home = urlsplit(url), urlsplit(base_url)
        same_port = there.port == home.port
    except ValueError:
        return False
    if there.scheme != home.scheme or not same_port or there.username is not None or there.password is not None:
        return False
    host, own = (there.hostname or "").rstrip("."), home.hostname or ""
    # `api.replicate.com` has all of `replicate.com`; any other name has nothing but itself.
    return host == own or (own.startswith("api.") and own.count(".") > 1 and host.endswith(own.removeprefix("api")))


def usage_of(prediction: Mapping[str, Any]) -> dict[str, Any] | None:
    """OpenAI's usage from the metrics, with the seconds that are charged; None where there are none."""
    metrics = prediction.get("metrics")
    if not isinstance(metrics, dict):
        return None
    tokens_in, tokens_out = metrics.get("input_token_count"), metrics.get("output_token_count")
    usage: dict[str, Any] = {}
    if isinstance(tokens_in, int) and isinstance(tokens_out, int):
        usage = {"prompt_tokens": tokens_in, "completion_tokens": tokens_out, "total_tokens": tokens_in + tokens_out}
    if isinstance(metrics.get("predict_time"), int | float):
        usage["seconds"] = metrics["predict_time"]
    return usage or None


def text_of(output: object) -> str:
    """A model's output as text: language models give a list of pieces."""
    if isinstance(output, list) and all(isinstance(piece, str) for piece in output):
        return "".join(output)
    if isinstance(output, str):
        return output
    try:
        return "" if output is None else msgspec.json.encode(output).decode()
    except RecursionError:
        return ""
