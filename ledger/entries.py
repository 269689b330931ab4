"""The two lines that a request leaves in the journal: one when it is admitted, one when it is settled (pure)."""

from decimal import Decimal
from typing import Any

import msgspec

# What a request holds of a budget's account: the account's id, the lease that it is taken from, units (ledger.money).
Charge = tuple[str, str, int]


class Opened(msgspec.Struct, tag="open", tag_field="t", omit_defaults=True):
    """A request was admitted. Of a process that dies, this line alone makes the row: status `lost`."""

    id: str  # the request id; unique
    at: float  # unix seconds, wall time
    key: str = ""
    key_name: str = ""
    endpoint: str = ""
    alias: str = ""  # the alias that matched, such as `mistral/*`
    model: str = ""  # the name that the client asked for
    stream: bool = False
    team: str = ""  # the team's id
    team_name: str = ""
    end_user: str = ""
    reserved: Decimal | None = None  # US dollars, the most that it can cost; None where the price is unknown
    charges: list[Charge] = []  # msgspec copies it for each struct


class Settled(Opened, tag="done", tag_field="t", omit_defaults=True):
    """The request's whole account: all that its row needs, so that a replay needs no other line."""

    outcome: str = ""  # ok, error, client_cancelled, truncated, upstream_error, upstream_timeout, lost, ...
    status: int = 0  # the HTTP status that the client was given; 0: none
    error_code: str = ""
    provider: str = ""  # the provider that answered, or was tried last
    upstream_model: str = ""
    attempts: list[dict[str, Any]] = []
    sent: bool = False  # whether bytes of the request may have reached a provider
    tokens_in: int = 0
    tokens_out: int = 0
    tokens_cached: int = 0
    tokens_reasoning: int = 0
    usage_source: str = "none"  # provider, estimated, partial, none
    bytes_out: int = 0  # body bytes handed to the client's connection
    ttft_ms: int | None = None  # to the first upstream byte, from the request's head
    duration_ms: int = 0
    upstream_request_id: str = ""
    cost: Decimal | None = None  # US dollars; None: unknown
    price_source: str = ""  # operator, genai-prices, charge (for an unknown price), reservation; "" where unknown
    credits: Decimal | None = None  # what the provider says that it took, in its own unit
    tokens_audio_in: int = 0
    tokens_audio_out: int = 0
    images: int = 0
    media_ms: int = 0
    tokens_cache_write: int = 0
    cache: str = ""  # hit, miss, stale, bypass; "" where the alias keeps no answers
    saved: Decimal | None = None  # US dollars: what an answer from the cache did cost when it was made


Entry = Opened | Settled
