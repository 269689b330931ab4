"""What a call costs (pure): Decimal US dollars from its usage and a price. An unknown price is None and never 0."""

from decimal import Decimal
from typing import Final

import msgspec
from msgspec.structs import force_setattr

from ledger.money import ZERO, rounded
from ledger.usage import Usage

MILLION: Final = Decimal(1_000_000)
THOUSAND: Final = Decimal(1000)


class Price(msgspec.Struct, frozen=True):
    """US dollars per million tokens, per request, image and second of audio or video; None is a rate that is not given.

    Cached tokens without a rate cost as input, and so do those written to a cache; reasoning tokens as output, audio as
    the text of its direction.
    """

    input: Decimal | None = None
    output: Decimal | None = None
    cached: Decimal | None = None
    cache_write: Decimal | None = None
    reasoning: Decimal | None = None
    audio_in: Decimal | None = None
    audio_out: Decimal | None = None
    request: Decimal | None = None
    image: Decimal | None = None
    second: Decimal | None = None
    source: str = "operator"
    # (input tokens, price): beyond so many, the whole call is charged by that price; rising.
    tiers: tuple[tuple[int, "Price"], ...] = ()
    # Made of the others, the highest rate of each direction: every request is admitted by these.
    dearest_in: Decimal | None = None
    dearest_out: Decimal | None = None

    def __post_init__(self) -> None:
        rates_in = (self.input, self.cached, self.cache_write, self.audio_in)
        rates_out = (self.output, self.reasoning, self.audio_out)
        for name, rates in (("dearest_in", rates_in), ("dearest_out", rates_out)):
            force_setattr(self, name, max((rate for rate in rates if rate is not None), default=None))

    @property
    def is_otherwise_charged(self) -> bool:
        """Whether tokens without a rate are free, because something else is charged."""
        return self.request is not None or self.image is not None or self.second is not None

    @property
    def may_cost(self) -> bool:
        """Whether anything that a call may use has a rate above 0."""
        return any((self.dearest_in, self.dearest_out, self.request, self.image, self.second))


def cost(usage: Usage, price: Price) -> Decimal | None:
    """Dollars, to 1e-10; None where the usage holds tokens that the price has no rate for."""
    price = _tier(price, usage.tokens_in)
    cached = min(usage.tokens_cached, usage.tokens_in)
    written = min(usage.tokens_cache_write, usage.tokens_in - cached)
    audio_in = min(usage.tokens_audio_in, usage.tokens_in - cached - written)
    reasoning = min(usage.tokens_reasoning, usage.tokens_out)
    audio_out = min(usage.tokens_audio_out, usage.tokens_out - reasoning)
    total = ZERO
    for tokens, own, general in (
        (usage.tokens_in - cached - written - audio_in, price.input, None),
        (cached, price.cached, price.input),
        (written, price.cache_write, price.input),
        (audio_in, price.audio_in, price.input),
        (usage.tokens_out - reasoning - audio_out, price.output, None),
        (reasoning, price.reasoning, price.output),
        (audio_out, price.audio_out, price.output),
    ):
        if not tokens:
            continue
        rate = general if own is None else own
        if rate is not None:
            total += tokens * rate
        elif not price.is_otherwise_charged:
            return None
    total = total / MILLION + _beside_tokens(price, usage.images, usage.media_ms)
    return rounded(total)


def worst(price: Price, tokens_in: int, tokens_out: int, *, images: int = 0, media_ms: int = 0) -> Decimal | None:
    """The most that a call of at most so many tokens can cost, whatever they turn out to be; None if unknown."""
    most = ZERO
    for one in (price, *[dearer for start, dearer in price.tiers if tokens_in > start]):
        total = ZERO
        for tokens, rate in ((tokens_in, one.dearest_in), (tokens_out, one.dearest_out)):
            if rate is not None:
                total += tokens * rate
            elif tokens and not one.is_otherwise_charged:
                return None
        most = max(most, total / MILLION + _beside_tokens(one, images, media_ms))
    return most


def _beside_tokens(price: Price, images: int, media_ms: int) -> Decimal:
    total = price.request or ZERO
    if images and price.image is not None:
        total += images * price.image
    if media_ms and price.second is not None:
        total += media_ms * price.second / THOUSAND
    return total


def _tier(price: Price, tokens_in: int) -> Price:
    for start, dearer in reversed(price.tiers):
        if tokens_in > start:
            return dearer
    return price
