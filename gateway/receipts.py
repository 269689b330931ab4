"""The account of one admitted request: what it took, what it tried, what it cost; settled exactly once.

A receipt is settled by leaving `open_receipt` with any exception or cancellation, or, once handed over, by the end of
the response. Settling is synchronous: a journal line and memory; nothing in it can be cancelled.
"""

import asyncio
from collections.abc import Callable
from decimal import Decimal
from types import TracebackType
from typing import Any, Self, TypeVar

import msgspec
import structlog
from msgspec.structs import replace

from gateway.attempts import Attempt
from gateway.bills import Bill
from gateway.errors import GatewayError, InternalError, LedgerUnavailable
from gateway.parsing.asks import Ask
from gateway.parsing.places import NOWHERE, Place
from gateway.process import Process
from ledger.entries import Opened, Settled
from ledger.journal import JournalError
from ledger.usage import Usage
from providers.targets import KeyCard, Target

log = structlog.get_logger("gateway")

R = TypeVar("R")

STATUS_CLIENT_CLOSED = 499  # nginx's number for a client that left before its answer
KEPT = frozenset({"hit", "stale"})  # the states of the cache in which it has the answer


def _no_header(name: bytes) -> bytes:
    return b""


class Call(msgspec.Struct):
    """One request on its connection, before it is known what it wants."""

    id: str
    name: str  # the id that the answer's `x-request-id` has: the same, unless a trusted proxy gave the request its own
    process: Process
    started: float  # monotonic seconds, when the head had come
    at: float  # wall time, unix seconds
    task: "asyncio.Task[None] | None" = None
    key: KeyCard | None = None
    issued_at: float = 0.0  # unix seconds, of a token; 0: the credential is none
    end_user: str = ""  # as the credential names it, or the holder of a secret key; "": the body may
    origin: str = ""  # of the page that may read the answer; "": none may
    status: int = 0  # of the answer, once its head has been sent
    bytes_out: int = 0
    disconnected: bool = False
    on_leave: Callable[[], bool] | None = None  # asked when the client leaves: True where the request goes on
    recorded: bool = False  # its answer is kept as it goes out, also after the client has left
    answered: bool = False  # the last body message is going out: what `receive()` says now means nothing
    receipt: "Receipt | None" = None
    error: GatewayError | None = None
    held: int = 0  # bytes of the body, on the process's memory account
    header: Callable[[bytes], bytes] = _no_header  # a field of the request's head, b"" where it is not there
    caller: Callable[[], str] = str  # the address that the call comes from, "" where it is not known
    headers: list[tuple[bytes, bytes]] = msgspec.field(default_factory=list)  # for the answer, whatever it will be
    place: Place = NOWHERE
    explains: bool = False  # the client only wants to know what would become of it
    provider: str = ""  # the one that the client names, "" where it leaves that to the gateway
    trace: Any = None  # see gateway.tracing.context; None where nobody traces
    forwarded: list[tuple[str, str]] = msgspec.field(default_factory=list)  # what of its head goes on to the provider
    closing: Callable[[], None] | None = None  # lets go of a body that is not held in memory alone

    @property
    def is_anthropic(self) -> bool:
        """Whether the client speaks Anthropic's API, and so reads its errors."""
        return self.place.path.startswith("/v1/messages")

    def take(self, size: int) -> None:
        self.process.memory.take(size)
        self.held += size

    def give(self, size: int) -> None:
        self.process.memory.give(size)
        self.held -= size

    def release(self) -> None:
        if self.closing is not None:
            self.closing()
            self.closing = None  # it holds what holds this call
        self.process.memory.give(self.held)
        self.held = 0


class Receipt(msgspec.Struct, eq=False):
    """Opened by `open_receipt`; the limits of time stand on it too, since the engine's tick walks the open receipts."""

    call: Call
    ask: Ask
    alias: str = ""
    attempts: list[Attempt] = msgspec.field(default_factory=list)
    usage: Usage | None = None
    usage_source: str = "none"
    ttft: float | None = None  # seconds
    upstream_request_id: str = ""
    # The moment (monotonic) by which the awaited thing must have come, and what is raised if it has not.
    deadline: float = float("inf")
    on_deadline: Callable[[], GatewayError] | None = None
    total_deadline: float = float("inf")
    interruption: GatewayError | None = None
    revoked: bool = False
    patience: float = 0.0  # seconds: the deadline anew after the upstream has been heard
    heard: bool = False  # the upstream has sent something since the last tick
    writing: bool = False  # the client is being written to; the upstream's silence does not count then
    # Set by a stream: called by the tick; keeps a silent connection alive and cuts one whose client does not read.
    on_tick: Callable[[float], None] | None = None
    give_back: list[Callable[[], None]] = msgspec.field(default_factory=list)
    bill: Bill = msgspec.field(default_factory=Bill)
    admitted: bool = False
    opened: Opened | None = None  # once admitted
    settled: bool = False
    outcome: str = ""  # once settled
    line: Settled | None = None  # once settled, where it was admitted
    error: GatewayError | None = None  # with which it was settled
    cache: str = ""  # hit, miss, stale, bypass; "" where the alias keeps no answers
    saved: Decimal | None = None  # US dollars that a kept answer did cost, or would have
    left: bool = False  # the client has gone, and others wait for the same answer
    handed_over: bool = False
    capture: Any = None  # see gateway.capturing; None: its bodies are not kept

    @property
    def process(self) -> Process:
        return self.call.process

    @property
    def key_id(self) -> str:
        return self.call.key.id if self.call.key else ""

    @property
    def user(self) -> tuple[str, str]:
        return self.call.key.principal if self.call.key else "", self.ask.end_user

    @property
    def is_kept(self) -> bool:
        """Whether its answer is another request's."""
        return self.cache in KEPT

    @property
    def streams(self) -> bool:
        return self.ask.stream

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(exc, asyncio.CancelledError) and (error := self.interrupted()) is not None:
            self.settle_for(error)  # what was waited for has no limit of its own: a pause, a row
            raise error from None
        if exc is not None:
            self.settle_for(exc)
        elif not self.handed_over:
            self.settle("ok")

    def admit(self, alias: str) -> None:
        """From here on the request owes a row. Raises LedgerUnavailable: what cannot be recorded is not sent."""
        self.alias = alias
        call, key, ask = self.call, self.call.key, self.ask
        opened = Opened(
            id=call.id,
            at=call.at,
            key=key.id if key else "",
            key_name=key.name if key else "",
            endpoint=ask.endpoint,
            alias=alias,
            model=ask.model,
            stream=ask.stream,
            team=key.team.id if key and key.team else "",
            team_name=key.team.name if key and key.team else "",
            end_user=ask.end_user,
            reserved=self.bill.reserved,
            charges=self.bill.charges(),
        )
        self._record(opened)
        self.admitted = True
        self.process.receipts.add(self)

    async def admit_again(self) -> None:
        """More has been set aside for the same request: the line that stands for it if the process dies says so.

        Raises LedgerUnavailable.
        """
        if self.opened is not None and self.bill.reserved is not None:
            self._record(replace(self.opened, reserved=self.bill.set_aside, charges=self.bill.charges()))
            await self.commit()

    def _record(self, opened: Opened) -> None:
        try:
            self.process.journal.append(opened)
        except JournalError as exc:
            raise LedgerUnavailable("The request cannot be recorded now, so it is not sent.", retry_after=5) from exc
        self.opened = opened

    async def commit(self) -> None:
        """Where the journal's disk may be lost: the row, before anything is sent. Raises LedgerUnavailable."""
        commit = self.process.commit_open
        if commit is not None and self.opened is not None:
            await commit(self.opened)

    def hand_over(self, response: R) -> R:
        """The response owns the receipt from here on, and settles it at its end."""
        self.handed_over = True
        return response

    def within(self, seconds: float, error: Callable[[], GatewayError]) -> "Within":
        """A block that must be left in `seconds`, and before the attempt's total deadline: else `error()` is raised.

        No timer is made: the engine's tick looks at the deadlines every 250 ms and cancels the request's task.
        """
        return Within(self, seconds, error)

    def disarm(self) -> None:
        self.deadline = float("inf")
        self.on_deadline = None

    def tick(self, now: float) -> None:
        """Called by the engine every 250 ms, with the monotonic time."""
        if self.on_deadline is not None:
            if self.heard or self.writing:
                # So a gap is noticed up to two ticks late, and no chunk costs a look at the clock.
                self.heard = False
                self.deadline = min(now + self.patience, self.total_deadline)
            if now > min(self.deadline, self.total_deadline):
                self.interrupt(self.on_deadline())
                return
        if self.on_tick is not None:
            self.on_tick(now)

    def interrupt(self, error: GatewayError) -> None:
        """Make `error` come out of whatever the request's task awaits: see `interrupted`."""
        if self.interruption is None and self.call.task is not None:
            self.interruption = error
            self.disarm()
            self.call.task.cancel()

    def runs_in(self, task: "asyncio.Task[Any]") -> bool:
        return self.call.task is task

    def revoke(self, error: GatewayError) -> None:
        """Called by the engine while the key is compromised or the end user blocked: end the request, once."""
        if not self.revoked:
            self.revoked = True
            self.interrupt(error)

    def interrupted(self) -> GatewayError | None:
        """Called on CancelledError: the tick's error, with the cancellation taken back, or None if it was another's."""
        error, self.interruption = self.interruption, None
        if error is None or self.call.task is None or self.call.disconnected:
            return None
        self.call.task.uncancel()
        return error

    def settle_for(self, exc: BaseException) -> None:
        if isinstance(exc, GatewayError):
            self.settle(exc.outcome, error=exc)
        elif isinstance(exc, asyncio.CancelledError):
            self.settle("client_cancelled")
        else:
            self.settle("error", error=InternalError("internal error"))

    def settle(self, outcome: str, *, error: GatewayError | None = None) -> None:
        """Write the row's line, once; give back what admission took, in reverse. Never raises."""
        if self.settled:
            return
        if self.left and outcome == "ok":
            outcome = "client_cancelled"
        self.settled, self.outcome, self.error = True, outcome, error
        self._estimate()
        self.disarm()
        self.on_tick = None
        self.process.receipts.discard(self)
        for undo in reversed(self.give_back):
            try:
                undo()
            except Exception:  # the row comes first
                log.exception("not_given_back", request_id=self.call.id)
        if not self.admitted:
            self.bill.release()
            return
        try:
            self.line = self._line(outcome, error)
            self.process.journal.append(self.line)
        except Exception:
            # The open line is on disk: at the next start it becomes a row of outcome `lost`.
            log.exception("settle_failed", request_id=self.call.id)
        if self.capture is not None and self.process.captures is not None:
            self.process.captures.settled(self, self.capture)
        if self.process.meters is not None and self.line is not None:
            try:
                self.process.meters.settled(self, self.line)
            except Exception:
                log.exception("not_counted", request_id=self.call.id)

    def _estimate(self) -> None:
        """Calls that were cut off before the end of their answer may have been billed for what went out and came."""
        if not self.attempts or not self.ask.is_billed or (self.usage is not None and len(self.attempts) == 1):
            return
        *earlier, last = self.attempts
        if self.usage is None and last.may_be_charged:
            self.usage, self.usage_source = last.estimate(self.ask), "estimated"
        for attempt in earlier:
            if attempt.may_be_charged:
                attempt.usage = attempt.estimate(self.ask)

    def _cost(self, last: Target | None, *, sent: bool) -> tuple[Decimal | None, str]:
        goes_on = self.ask.is_background
        cost, source = self.bill.cost(
            last, self.usage, sent=sent and not self.is_kept, told_by=self.usage_source, goes_on=goes_on
        )
        return self.bill.with_earlier(cost, self.attempts, goes_on=goes_on), source

    def _line(self, outcome: str, error: GatewayError | None) -> Settled:
        call, key, ask = self.call, self.call.key, self.ask
        last = self.attempts[-1].target if self.attempts else None
        usage = self.usage or NO_USAGE
        sent = any(attempt.sent for attempt in self.attempts)
        cost, source = self._cost(last, sent=sent)
        without_head = error.status if error else STATUS_CLIENT_CLOSED if outcome == "client_cancelled" else 200
        return Settled(
            id=call.id,
            at=call.at,
            key=key.id if key else "",
            key_name=key.name if key else "",
            endpoint=ask.endpoint,
            alias=self.alias,
            model=ask.model,
            stream=ask.stream,
            outcome=outcome,
            status=call.status or without_head,
            error_code=(error.code or "") if error else "",
            provider=last.provider.name if last else "",
            upstream_model=last.model if last else "",
            attempts=[attempt.row() for attempt in self.attempts],
            sent=sent,
            tokens_in=usage.tokens_in,
            tokens_out=usage.tokens_out,
            tokens_cached=usage.tokens_cached,
            tokens_cache_write=usage.tokens_cache_write,
            tokens_reasoning=usage.tokens_reasoning,
            usage_source="cache" if self.is_kept else self.usage_source,
            bytes_out=call.bytes_out,
            ttft_ms=None if self.ttft is None else round(self.ttft * 1000),
            duration_ms=round((self.process.clock() - call.started) * 1000),
            upstream_request_id=self.upstream_request_id,
            team=key.team.id if key and key.team else "",
            team_name=key.team.name if key and key.team else "",
            end_user=ask.end_user,
            reserved=self.bill.set_aside,
            charges=self.bill.settle(cost),
            cost=cost,
            price_source=source,
            credits=usage.credits,
            tokens_audio_in=usage.tokens_audio_in,
            tokens_audio_out=usage.tokens_audio_out,
            images=usage.images,
            media_ms=usage.media_ms,
            cache=self.cache,
            saved=self.saved,
        )


NO_USAGE = Usage()


class Within(msgspec.Struct):
    """See `Receipt.within`; each tick that finds `receipt.heard` starts the time anew."""

    receipt: Receipt
    seconds: float
    error: Callable[[], GatewayError]

    def __enter__(self) -> Self:
        receipt = self.receipt
        receipt.on_deadline, receipt.patience, receipt.heard = self.error, self.seconds, False
        receipt.deadline = min(receipt.process.clock() + self.seconds, receipt.total_deadline)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.receipt.disarm()
        if kind is asyncio.CancelledError and (error := self.receipt.interrupted()) is not None:
            raise error from None


def open_receipt(call: Call, ask: Ask) -> Receipt:
    call.receipt = Receipt(call, ask)
    return call.receipt
