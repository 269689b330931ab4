"""Embeddings, kept item by item: of a batch only what is new is asked for, each text once.

An item is kept as the provider gave it, as numbers or base64; the client is given the form that it asks for. Of the
tokens of a call each of its items has a share by its length, so that what a client is told adds up.
"""

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import msgspec
from msgspec import Raw
from msgspec.structs import replace

from gateway.caching import identity
from gateway.caching.kept import ITEM, Facts, Kept
from gateway.caching.shelves import Shelf
from gateway.errors import UpstreamInvalid
from gateway.parsing.asks import Ask
from gateway.replies.mending import decode_fields
from gateway.replies.mending import decode_list as decode_items
from ledger.money import ZERO, rounded
from ledger.usage import Usage
from providers.targets import Target

ANY = Raw(b'""')  # stands for the input, where the rest of a request is compared

_encode = msgspec.json.encode


def items_of(ask: Ask) -> list[Any]:
    """The texts, or lists of token ids, that are to be embedded. Raises NotComparable."""
    raw = ask.fields.get("input")
    try:
        value = msgspec.json.decode(raw) if raw is not None else None
    except msgspec.MsgspecError as exc:
        raise identity.NotComparable(str(exc)) from None
    if isinstance(value, str):
        return [value]
    if isinstance(value, list) and value:
        if all(isinstance(item, int) for item in value):
            return [value]
        if all(isinstance(item, str | list) for item in value):
            return value
    raise identity.NotComparable("no input that could be told apart")


class Batch:
    """One request for embeddings: what of it is kept, and what is new."""

    def __init__(self, shelf: Shelf, ask: Ask, target: Target) -> None:
        """Raises NotComparable."""
        self.shelf, self.ask = shelf, ask
        self.items = items_of(ask)
        if len(ask.fields["input"]) > identity.MAX_BYTES:
            raise identity.NotComparable("too large")
        self.rest = identity.request_of(_of_any_input(ask), target)
        self.names = self._names_at(target, self.rest)
        self.found: dict[bytes, Kept] = {}

    def _names_at(self, target: Target, rest: dict[str, Any]) -> list[bytes]:
        rest.pop("encoding_format", None)
        namer = self.shelf.namer(self.ask, target)
        return namer.each("item", rest, self.items)

    @property
    def whole_name(self) -> tuple[dict[str, Any], list[Any]]:
        """What makes two whole requests equal."""
        return self.rest, self.items

    async def find(self) -> None:
        names = list(dict.fromkeys(self.names))
        for name, kept in zip(names, await self.shelf.find_all(names), strict=True):
            if kept is not None and self.shelf.is_fresh(kept):
                self.found[name] = kept

    @property
    def missing(self) -> list[int]:
        """The places of what is new, each item once."""
        first: dict[bytes, int] = {}
        for place, name in enumerate(self.names):
            if name not in self.found:
                first.setdefault(name, place)
        return list(first.values())

    @property
    def saved(self) -> Decimal | None:
        """What the kept ones did cost; None where nothing is known of it."""
        costs = [kept.facts.cost for kept in self._kept()]
        known = [cost for cost in costs if cost is not None]
        return sum(known, ZERO) if known else None

    @property
    def tokens(self) -> int:
        return sum(kept.facts.usage.tokens_in for kept in self._kept())

    def _kept(self) -> list[Kept]:
        return [self.found[name] for name in self.names if name in self.found]

    def to_ask(self) -> Ask:
        """The request for what is new; as it came, where that is all of it."""
        missing = self.missing
        if len(missing) == len(self.items):
            return self.ask
        fields = {**self.ask.fields, "input": Raw(_encode([self.items[place] for place in missing]))}
        size = self.ask.size - len(self.ask.fields["input"]) + len(fields["input"])
        return replace(self.ask, fields=fields, size=size)

    def from_kept(self) -> Kept:
        """The answer, where nothing is new."""
        kept = self._kept()
        facts = min((one.facts for one in kept), key=lambda facts: facts.at)
        usage = Usage(self.tokens)
        head = {"object": "list", "model": facts.named or facts.model}
        body = _encode(
            {
                **head,
                "data": [_placed(one.body, place) for place, one in enumerate(kept)],
                "usage": {"prompt_tokens": usage.tokens_in, "total_tokens": usage.tokens_in},
            }
        )
        return Kept(msgspec.structs.replace(facts, kind="plain", usage=usage, cost=self.saved), body)

    def completed(self, target: Target, body: bytes, usage: Usage, cost: Decimal | None) -> bytes:
        """Keep what has come and put it in its places. Raises UpstreamInvalid where it is not what was asked for."""
        missing = self.missing
        try:
            fields = decode_fields(body)
            items = _in_order(decode_items(fields["data"]))
        except (msgspec.MsgspecError, KeyError):
            raise UpstreamInvalid("The provider answered with data that are no embeddings.", sent=True) from None
        if len(items) != len(missing):
            if len(missing) == len(self.items):
                return body
            raise UpstreamInvalid(
                "The provider answered with another number of embeddings than it was asked for.", sent=True
            )
        self._keep(target, fields, missing, items, usage, cost)
        if len(missing) == len(self.items):
            return body
        new = {self.names[place]: item for place, item in zip(missing, items, strict=True)}
        data = [
            {**new[name], "index": place} if name in new else _placed(self.found[name].body, place)
            for place, name in enumerate(self.names)
        ]
        return _encode({**fields, "data": data, **_with_kept(fields, self.tokens)})

    def _keep(
        self,
        target: Target,
        fields: dict[str, Raw],
        missing: Sequence[int],
        items: Sequence[dict[str, Raw]],
        usage: Usage,
        cost: Decimal | None,
    ) -> None:
        named = _text(fields.get("model"))
        try:
            names = self._names_at(target, identity.request_of(_of_any_input(self.ask), target))
        except identity.NotComparable:
            return
        facts = self.shelf.facts(ITEM, target, Usage(), None)
        shares = shared_out(usage.tokens_in, [_length(self.items[place]) for place in missing])
        for place, item, tokens in zip(missing, items, shares, strict=True):
            part = None if cost is None else rounded(cost * tokens / (usage.tokens_in or 1))
            own: Facts = msgspec.structs.replace(facts, usage=Usage(tokens), cost=part, named=named)
            rest = {name: raw for name, raw in item.items() if name != "index"}
            self.shelf.keep(names[place], Kept(own, _encode(rest)))


def shared_out(total: int, weights: Sequence[int]) -> list[int]:
    """Whole shares by weight that add up to the total."""
    shares: list[int] = []
    given = passed = 0
    whole = sum(weights) or 1
    for weight in weights:
        passed += weight
        upto = total * passed // whole
        shares.append(upto - given)
        given = upto
    return shares


def _of_any_input(ask: Ask) -> Ask:
    return replace(ask, fields={**ask.fields, "input": ANY})


def _placed(body: bytes, place: int) -> dict[str, Any]:
    return {**decode_fields(body), "index": place}


def _in_order(items: list[dict[str, Raw]]) -> list[dict[str, Raw]]:
    """By the index that they say, where all of them say one."""
    places = [bytes(item.get("index", b"")) for item in items]
    if sorted(places) != sorted(b"%d" % place for place in range(len(items))):
        return items
    return [item for _, item in sorted(zip(map(int, places), items, strict=True), key=lambda pair: pair[0])]


def _with_kept(fields: dict[str, Raw], tokens: int) -> dict[str, Any]:
    """The usage of the new ones and the kept ones together; none where the provider gives none."""
    raw = fields.get("usage")
    usage = msgspec.json.decode(raw) if raw is not None else None
    if not isinstance(usage, dict):
        return {}
    for name in ("prompt_tokens", "total_tokens"):
        if isinstance(usage.get(name), int):
            usage[name] += tokens
    return {"usage": usage}


def _text(raw: Raw | None) -> str:
    value = msgspec.json.decode(raw) if raw is not None else ""
    return value if isinstance(value, str) else ""


def _length(item: Any) -> int:
    """A list of token ids has as many as it has; of texts the bytes say how they compare."""
    return max(1, len(item.encode("utf-8", "replace")) if isinstance(item, str) else len(item))
