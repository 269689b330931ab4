"""What goes to a provider for a request: the address, the head and the body, as its dialect and its row want them."""

from collections.abc import Callable
from functools import partial

import msgspec
from msgspec import Raw

from gateway.errors import NotFound, Unsupported
from gateway.parsing.asks import Ask, Form
from gateway.pouring import Source
from gateway.wayfinding import unknown_model
from providers import dialects, edits
from providers.dialects import Dialect
from providers.dialects.openai import BadModelName
from providers.targets import ProviderCard, Target

# Sent with every call; nothing of the client's head goes upstream but what stands in heads.FORWARDED.
FIXED = [("accept-encoding", "identity"), ("user-agent", "llm-gateway")]
ANTHROPIC_VERSION = "2023-06-01"  # https://docs.anthropic.com/en/api/versioning

Edit = Callable[[dict[str, Raw]], None]


class Outgoing(msgspec.Struct, frozen=True):
    url: str
    headers: list[tuple[str, str]]
    body: bytes | Source
    predicts: bool = False  # it is answered by a prediction


def outgoing(ask: Ask, target: Target, forwarded: list[tuple[str, str]]) -> Outgoing:
    """`forwarded` is what of the client's head goes on.

    Raises Unsupported for what this provider has not, UnknownModel and NotFound for what does not fit into its address.
    """
    provider = target.provider
    dialect = dialects.get(provider.dialect)
    url = _url(ask, target, dialect)
    try:
        body = ask.body(
            dialect.body_model(target),
            include_usage=dialect.asks_for_usage(provider),
            edit=_edit(ask, provider, dialect) if ask.form is Form.COMPLETION else None,
        )
    except edits.Refused as exc:
        raise Unsupported(str(exc), param=exc.field) from None
    messages = ask.form is Form.MESSAGES
    signature = dialect.messages_headers(target) if messages else dialect.headers(target)
    headers = [*FIXED, *forwarded, *signature, *provider.quirks.headers.items()]
    if messages and not any(name == "anthropic-version" for name, _ in forwarded):
        headers.append(("anthropic-version", ANTHROPIC_VERSION))
    if ask.content_type:
        headers.append(("content-type", ask.content_type))
    return Outgoing(url, headers, body, dialect.predicts and ask.path in dialect.converts)


def _url(ask: Ask, target: Target, dialect: Dialect) -> str:
    provider = target.provider
    path = provider.quirks.paths.get(ask.path, ask.path)
    if not path:
        raise Unsupported(f"The provider of `{ask.model}` has no {ask.path}.", code="unsupported_endpoint")
    try:
        messages = ask.form is Form.MESSAGES
        url = f"{dialect.messages_base(provider)}{path}" if messages else dialect.url(target, path)
    except BadModelName:
        if not ask.names_model:
            raise NotFound(f"The provider `{provider.name}` does not offer {ask.method} /v1{ask.path}.") from None
        raise unknown_model(ask.model) from None
    return url + ("&" if "?" in url else "?") + ask.query if ask.query else url


def _edit(ask: Ask, provider: ProviderCard, dialect: Dialect) -> Edit:
    edit: Edit = partial(edits.apply, provider.quirks, path=ask.path)
    if ask.path in dialect.converts:
        edit = partial(_one_after_the_other, edit, partial(dialect.request, provider, ask.path))
    if ask.stream and not dialect.streams(ask.path, ask.fields):
        edit = partial(_one_after_the_other, _ask_for_whole, edit)
    return edit


def _one_after_the_other(first: Edit, second: Edit, fields: dict[str, Raw]) -> None:
    first(fields)
    second(fields)


def _ask_for_whole(fields: dict[str, Raw]) -> None:
    """What cannot be streamed is asked for whole; the client gets that as a stream."""
    fields.pop("stream", None)
    fields.pop("stream_options", None)
