"""What one process of the gateway owns: upstream connections, journal, memory account, open receipts."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import msgspec

from gateway.errors import GatewayError, Overloaded
from gateway.routing.breakers import Breakers
from gateway.routing.stickies import Stickies
from gateway.spool import Disk
from gateway.upstream.client import Upstream
from ledger.budgets import Budgets
from ledger.entries import Entry, Opened, Settled
from ledger.pricebook import PriceBook

MAX_BUFFERED = 256 * 1024 * 1024


class JournalLike(Protocol):
    def append(self, entry: Entry) -> None: ...


class LimiterLike(Protocol):
    """See gateway.limits; the claims and verdicts are defined there."""

    estimates: Any
    store: Any
    mode: str

    def take(self, claim: Any) -> Awaitable[Any]: ...

    def look(self, claim: Any) -> Any: ...

    def release(self, claim: Any) -> None: ...

    def correct(self, claim: Any, charge: Any, actual: float) -> None: ...


class OpenReceipt(Protocol):
    """A request under way, as the engine sees it: its time passes, and it can be ended."""

    @property
    def key_id(self) -> str: ...

    @property
    def user(self) -> tuple[str, str]:
        """The key's principal and the end user, "" where none is named."""
        ...

    def tick(self, now: float) -> None: ...

    def interrupt(self, error: GatewayError) -> None: ...

    def runs_in(self, task: "asyncio.Task[Any]") -> bool: ...

    def revoke(self, error: GatewayError) -> None: ...

    @property
    def streams(self) -> bool: ...


class MetersLike(Protocol):
    """See gateway.metrics.meters."""

    def settled(self, receipt: Any, line: Settled) -> None: ...

    def answered(self, call: Any) -> None: ...


class TracesLike(Protocol):
    """See gateway.tracing.export."""

    def begin(self, header: Callable[[bytes], bytes]) -> Any: ...

    def finished(self, call: Any) -> None: ...


class CapturesLike(Protocol):
    """See gateway.capturing."""

    def begin(self, receipt: Any, alias: Any, body: bytes) -> None: ...

    def settled(self, receipt: Any, capture: Any) -> None: ...


class Memory:
    """Counts the bytes that all requests of the process hold in buffers; beyond the cap new ones are refused."""

    __slots__ = ("cap", "held", "reclaim")

    def __init__(self, cap: int = MAX_BUFFERED) -> None:
        self.cap = cap
        self.held = 0
        # Asked for so many bytes before a request is refused: what is held for later only gives way.
        self.reclaim: Callable[[int], None] | None = None

    def take(self, size: int) -> None:
        """Raises Overloaded where the cap would be passed."""
        if self.held + size > self.cap and self.reclaim is not None:
            self.reclaim(self.held + size - self.cap)
        if self.held + size > self.cap:
            raise Overloaded("The gateway's buffers are full.", code="buffers_full")
        self.held += size

    def give(self, size: int) -> None:
        self.held -= size


class Listings(msgspec.Struct):
    """What the providers say that they have (gateway/listing.py), by the provider's id."""

    # Good until, and the models' ids.
    known: dict[str, tuple[float, tuple[str, ...]]] = msgspec.field(default_factory=dict)
    asking: "dict[str, asyncio.Task[tuple[str, ...]]]" = msgspec.field(default_factory=dict)


class Process(msgspec.Struct):
    upstream: Upstream
    journal: JournalLike
    clock: Callable[[], float]  # monotonic seconds; the loop's own
    limiter: LimiterLike
    prices: PriceBook = msgspec.field(default_factory=PriceBook)
    budgets: Budgets | None = None  # None: there is no database to keep them in
    sql: Callable[..., Awaitable[Any]] | None = None  # runs a blocking job on the SQL thread
    memory: Memory = msgspec.field(default_factory=Memory)
    disk: Disk = msgspec.field(default_factory=Disk)
    drains: int = 0  # streams that are read to their end though their client has left
    meters: MetersLike | None = None  # None: nobody reads the numbers
    traces: TracesLike | None = None
    captures: CapturesLike | None = None  # None: no body is kept, whatever a key or an alias says
    listings: Listings = msgspec.field(default_factory=Listings)
    keyed_pruned_at: float = float("-inf")
    keyed: set[str] = msgspec.field(default_factory=set)  # requests with an Idempotency-Key that are under way here
    receipts: set[OpenReceipt] = msgspec.field(default_factory=set)
    stickies: Stickies = msgspec.field(default_factory=Stickies)
    breakers: Breakers = None  # type: ignore[assignment]  # made with the clock
    cache: Any = None  # see gateway.caching.cache
    # Where the journal dies with the machine: the row is committed before the provider is called.
    commit_open: Callable[[Opened], Awaitable[None]] | None = None

    def __post_init__(self) -> None:
        self.breakers = Breakers(self.clock)
