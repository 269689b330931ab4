"""The reference, OpenAI's own HTTP API: https://platform.openai.com/docs/api-reference. Others are "this, except"."""

from collections.abc import Mapping
from typing import ClassVar

from msgspec import Raw

from providers.addresses import origin
from providers.targets import ProviderCard, Target


class BadModelName(ValueError):
    """The name cannot be a model of this dialect: it does not fit into the address."""


class OpenAI:
    """Says where a request goes and how it is signed. Pure: no network, no ORM; `target.secret` goes nowhere else."""

    name: ClassVar[str] = "openai"
    label: ClassVar[str] = "OpenAI and whatever speaks its dialect"
    # Whether the address is the operator's to give; echo needs none.
    needs_base_url: ClassVar[bool] = True
    # Whether a provider without any credential cannot be called; a server of one's own may want none.
    needs_credential: ClassVar[bool] = False
    # What is appended to a base URL that names a host only.
    bare_path: ClassVar[str] = "/v1"
    # Option names that the provider's form accepts, with a sentence each.
    options: ClassVar[dict[str, str]] = {
        "include_usage": "false: do not ask for usage in streams (an upstream that refuses stream_options)",
        "messages": "true: it has Anthropic's Messages API, too; or where on its host, such as /anthropic/v1",
        "x_api_key": "true: that API takes the credential as x-api-key and not as a bearer token",
        "drain": "true: read a stream to its end when its client leaves (a provider that bills all of it anyway)",
    }
    # Of an option that is one of several words, these.
    choices: ClassVar[dict[str, tuple[str, ...]]] = {}
    # Whether its answers are predictions, which are created and then asked for (gateway/forwarding/predictions.py).
    predicts: ClassVar[bool] = False
    # The paths whose requests `request` puts into the provider's shape, and their whole answers `answer` into OpenAI's.
    converts: ClassVar[frozenset[str]] = frozenset()
    # Path, below the base URL, of a cheap GET that proves address and credential right; None where there is none.
    probe_path: ClassVar[str | None] = "/models"

    def url(self, target: Target, path: str) -> str:
        """The address of one call. `path` is of our own fixed set, such as `/chat/completions`: never the client's.

        Raises BadModelName where the model's name is a part of the address and cannot be.
        """
        return target.provider.base_url + path

    def messages_base(self, provider: ProviderCard) -> str | None:
        """What stands before `/messages` in the address of Anthropic's API at that provider; None: it has none."""
        where = provider.options.get("messages")
        if isinstance(where, str) and where.startswith("/"):
            return origin(provider.base_url) + where.rstrip("/")
        return provider.base_url if where is True else None

    def messages_headers(self, target: Target) -> list[tuple[str, str]]:
        """The signature of one call there."""
        if target.provider.options.get("x_api_key") and target.credential:
            return [("x-api-key", target.secret)]
        return OpenAI.headers(self, target)

    def headers(self, target: Target) -> list[tuple[str, str]]:
        """The signature of one call."""
        return [("authorization", f"Bearer {target.secret}")] if target.credential else []

    def body_model(self, target: Target) -> str:
        """What stands in the body's `model`."""
        return target.model

    def asks_for_usage(self, provider: ProviderCard) -> bool:
        """Whether `stream_options.include_usage` may be added to a stream."""
        return bool(provider.options.get("include_usage", True))

    def streams(self, path: str, fields: Mapping[str, Raw]) -> bool:
        """Whether the upstream can stream what these fields ask for; else it is asked for the whole answer."""
        return True

    def request(self, provider: ProviderCard, path: str, fields: dict[str, Raw]) -> None:
        """Edit the body of a request to a path of `converts`, after the declared edits; may raise edits.Refused."""

    def answer(self, path: str, fields: dict[str, Raw]) -> dict[str, Raw]:
        """A whole answer in OpenAI's shape, from a path of `converts`; ValueError where it is no answer."""
        return fields
