"""A kept answer as the reply to a request: a stream or a whole, whichever it asked for, and what its row says."""

from gateway.attempts import Attempt
from gateway.caching import assembling
from gateway.caching.kept import PLAIN, Kept
from gateway.parsing.asks import Ask
from gateway.receipts import Receipt
from gateway.replies.answers import as_stream, with_base64, with_floats
from gateway.replies.chat import ChatRelay
from gateway.replies.relays import Reply
from providers.targets import ProviderCard, Target

NAME = "cache"  # what stands in a row in a provider's place
JSON = "application/json"
EVENT_STREAM = "text/event-stream; charset=utf-8"
HIT, MISS, STALE, BYPASS = "hit", "miss", "stale", "bypass"


def mark(receipt: Receipt, state: str, *, age: float | None = None, distance: float | None = None) -> None:
    """Say to the client, the row and the log what the cache had; what is said last holds."""
    receipt.cache = state
    call = receipt.call
    call.headers = [pair for pair in call.headers if pair[0] not in HEADERS]
    call.headers.append((b"x-gateway-cache", state.encode()))
    if age is not None:
        call.headers.append((b"age", b"%d" % age))
    if distance is not None:
        call.headers.append((b"x-gateway-cache-distance", f"{distance:.6f}".encode()))


HEADERS = frozenset({b"x-gateway-cache", b"age", b"x-gateway-cache-distance", b"x-gateway-cache-items"})


def stand_in(receipt: Receipt, model: str, like: Target) -> Target:
    """The target of an answer that no provider was asked for; it stands in the row, and times are as there."""
    card = ProviderCard(NAME, NAME, NAME, timeouts=like.provider.timeouts)
    target = Target(card, model)
    receipt.attempts.append(Attempt(target, receipt.process.clock(), "ok", 200))
    return target


def reply(kept: Kept, ask: Ask, receipt: Receipt, target: Target) -> Reply:
    """Raises ValueError where the body is not what it says it is."""
    chat = ask.endpoint == "chat.completions"
    facts = kept.facts
    if ask.endpoint == "embeddings":
        body = with_base64(kept.body) if ask.wants_base64 else with_floats(kept.body)
    elif not ask.stream:
        body = kept.body if facts.kind == PLAIN else assembling.completion(kept.body, chat=chat)
    elif facts.kind == PLAIN:
        body = as_stream(kept.body, chat=chat, wants_usage=ask.wants_usage)
    else:
        body = kept.body if ask.wants_usage else _without_usage(kept.body, chat=chat)
    receipt.usage, receipt.usage_source, receipt.saved = facts.usage, NAME, facts.cost
    place = stand_in(receipt, facts.model, target)
    if ask.stream:
        receipt.call.headers.append((b"cache-control", b"no-cache, no-transform"))
    return Reply(place, 200, EVENT_STREAM if ask.stream else JSON, body)


def _without_usage(stream: bytes, *, chat: bool) -> bytes:
    relay = ChatRelay(chat=chat, wants_usage=False)
    body = relay.feed(stream)
    if not relay.done or relay.failed is not None:
        raise ValueError("no complete stream")
    return body
