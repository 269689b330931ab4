"""A question that means the same as one that was answered: found by its embedding, where all else is equal."""

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import structlog

from gateway.caching.identity import Namer
from gateway.caching.kept import Kept
from gateway.caching.meanings import Meanings
from gateway.caching.shelves import Shelf
from gateway.caching.vectors import Direction, NoVector, direction
from gateway.receipts import Receipt

log = structlog.get_logger("gateway")

MAX_CHARS = 32_000  # of a question: embedding models read no more

# The alias that makes embeddings, and the text; the model and the embedding, None where there is none to be had.
Embed = Callable[[Receipt, str, str], Awaitable[tuple[str, list[float]] | None]]


class Question(msgspec.Struct, frozen=True):
    """`rest` is all of the request but the text of its last question, and is compared as it stands."""

    text: str
    rest: dict[str, Any]


class Asked(msgspec.Struct, frozen=True):
    """A question with its embedding, on its way to an answer."""

    place: bytes
    meaning: Direction


def question_of(values: dict[str, Any]) -> Question | None:
    """The last question of a chat, or a completion's prompt, where it is text and nothing else."""
    if "prompt" in values:
        prompt = values["prompt"]
        return _question(prompt if isinstance(prompt, str) else None, {**values, "prompt": None})
    messages = values.get("messages")
    if not isinstance(messages, list) or not messages or not isinstance(messages[-1], dict):
        return None
    last = messages[-1]
    if last.get("role") != "user":
        return None
    rest = {**values, "messages": [*messages[:-1], {**last, "content": None}]}
    return _question(_text(last.get("content")), rest)


def _question(text: str | None, rest: dict[str, Any]) -> Question | None:
    return Question(text, rest) if text and text.strip() and len(text) <= MAX_CHARS else None


def _text(content: Any) -> str | None:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return None
    parts = [part.get("text") if isinstance(part, dict) and set(part) == {"type", "text"} else None for part in content]
    texts = [part for part in parts if isinstance(part, str)]
    return "\n".join(texts) if len(texts) == len(parts) else None


class Semantic:
    def __init__(self, meanings: Meanings, embed: Embed) -> None:
        self.meanings, self._embed = meanings, embed

    async def asked(self, namer: Namer, question: Question, shelf: Shelf, receipt: Receipt) -> Asked | None:
        """The question with its embedding, in the place where it may be compared: what two models made never is."""
        made = await self._embed(receipt, shelf.embedder, question.text)
        if made is None:
            return None
        model, numbers = made
        try:
            return Asked(namer("meaning", shelf.embedder, model, question.rest), direction(numbers))
        except NoVector as error:
            log.warning("embedding_unusable", alias=shelf.embedder, error=str(error))
            return None

    async def find(self, asked: Asked, shelf: Shelf) -> tuple[Kept, float] | None:
        """The fresh answer to the most similar question that has one, and the distance; 0: the same."""
        card = shelf.alias.cache
        assert card is not None
        for name, similarity in await self.meanings.nearest(asked.place, asked.meaning):
            if similarity < card.similarity:
                break
            kept = await shelf.find(name)
            if kept is not None and shelf.is_fresh(kept):
                return kept, max(0.0, 1.0 - similarity)
            self.meanings.forget(asked.place, name)
        return None
