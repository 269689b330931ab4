"""Which targets are out of order, as this process has seen it: a breaker for each provider, credential and model.

A closed one costs a look-up and a few additions for each answer. An open one is passed over, until a call that costs
nothing (gateway/trials.py) has found its provider in order, or there is no such call: then a request is its trial, once
in a while. A retry is paid for out of an allowance, so that nobody makes a provider's bad hour worse.
"""

import math
from collections import deque
from collections.abc import Callable, Iterable, Sequence

import msgspec

from gateway.errors import GatewayError, Overloaded, UpstreamError, UpstreamRefused
from providers.targets import CredentialCard, Target

SPAN = 5.0  # seconds of one count; of SPANS counts is the window made
SPANS = 6
LEAST = 20  # answers in the window, below which no part of failures opens
PART = 0.5  # of failures, at which it opens
IN_A_ROW = 5  # connections that could not be made, one after the other
PROBE = 5.0  # seconds between two calls that cost nothing
TRIAL = 7.5  # seconds after which a request is the trial, where no such call has been answered
BRIEF = frozenset({401, 403, 429})  # refusals that come at once and say more than the gateway could
RETRIES = 0.2  # of a process's requests, for each provider
MOST_RETRIES = 10.0  # in a bad moment after a good time
MAX_WATCHED = 10_000
LATENCIES = 128  # the newest of a target

Key = tuple[str, str, str]  # provider, credential and model; "" for the model: all that use the credential


class Unavailable(Overloaded):
    """Every target is known to be out of order: nothing was sent."""

    code = "upstream_unavailable"


class Watch(msgspec.Struct):
    """What is known of one target. `opened_at` is None where it is in order."""

    target: Target
    good: list[int] = msgspec.field(default_factory=lambda: [0] * SPANS)
    bad: list[int] = msgspec.field(default_factory=lambda: [0] * SPANS)
    span: int = 0
    in_a_row: int = 0
    opened_at: float | None = None
    failed_at: float = 0.0
    because: str = ""
    status: int = 0  # of the last failure, where it was an answer
    probe_at: float = math.inf
    trial_at: float = 0.0
    seconds: deque[float] = msgspec.field(default_factory=lambda: deque(maxlen=LATENCIES))

    def count(self, counts: list[int], now: float) -> None:
        span = int(now / SPAN)
        if span != self.span:
            for passed in range(self.span + 1, min(span, self.span + SPANS) + 1):
                self.good[passed % SPANS] = self.bad[passed % SPANS] = 0
            self.span = span
        counts[span % SPANS] += 1

    def recent(self, now: float) -> tuple[int, int]:
        """How many answers and failures in the window, now."""
        passed = max(0, int(now / SPAN) - self.span)
        kept = [(self.span - back) % SPANS for back in range(max(0, SPANS - passed))]
        return sum(self.good[place] for place in kept), sum(self.bad[place] for place in kept)

    def is_bad(self) -> bool:
        failures = sum(self.bad)
        answers = failures + sum(self.good)
        return self.in_a_row >= IN_A_ROW or (answers >= LEAST and failures >= PART * answers)


class Allowance(msgspec.Struct):
    tokens: float = MOST_RETRIES
    counted: int = 0  # requests that it has grown by


class Breakers:
    """Of one process; all of it belongs to one event loop. `open` is empty where nothing is wrong."""

    __slots__ = ("_allowances", "_clock", "_watched", "open", "requests")

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._watched: dict[Key, Watch] = {}
        self._allowances: dict[str, Allowance] = {}
        self.open: dict[Key, Watch] = {}
        self.requests = 0

    # --- what comes of an attempt ------------------------------------------------------------------------------------

    def answered(self, target: Target, seconds: float) -> None:
        """The target has answered, its first byte after so many seconds."""
        key = key_of(target)
        watch = self._watched.get(key) or self._watch(key, target)
        watch.count(watch.good, self._clock())
        watch.in_a_row = 0
        watch.seconds.append(seconds)
        if self.open:
            self._close(key)
            self._close((key[0], key[1], ""))

    def failed(self, target: Target, error: GatewayError, seconds: float) -> None:
        """An attempt has ended so. What the request is to blame for is an answer like any other."""
        if not isinstance(error, UpstreamError):
            return
        status = error.upstream_status if isinstance(error, UpstreamRefused) else 0
        if 400 <= status < 500 and status not in (408, *BRIEF):
            self.answered(target, seconds)
            return
        key, now = key_of(target), self._clock()
        if status == 401:  # nothing can be had with this token; with a 403, not this model
            key = (key[0], key[1], "")
        watch = self._watched.get(key) or self._watch(key, target)
        watch.count(watch.bad, now)
        watch.target, watch.failed_at, watch.because = target, now, error.code or error.outcome
        watch.status = status
        watch.in_a_row = 0 if error.sent else watch.in_a_row + 1
        if watch.opened_at is not None or status in (401, 403) or watch.is_bad():
            watch.opened_at = now if watch.opened_at is None else watch.opened_at
            watch.probe_at, watch.trial_at = now + PROBE, now + TRIAL
            self.open[key] = watch

    def _watch(self, key: Key, target: Target) -> Watch:
        if len(self._watched) >= MAX_WATCHED:
            oldest = next(iter(self._watched))
            del self._watched[oldest]
            self.open.pop(oldest, None)
        watch = self._watched[key] = Watch(target)
        return watch

    def _close(self, key: Key) -> None:
        watch = self.open.pop(key, None)
        if watch is not None:
            watch.opened_at, watch.probe_at = None, math.inf
            watch.good, watch.bad, watch.in_a_row = [0] * SPANS, [0] * SPANS, 0

    # --- which targets are tried -------------------------------------------------------------------------------------

    def usable(self, targets: Sequence[Target]) -> Sequence[Target]:
        """Those that are in order or due for a trial, each with a credential that is. Asked only while some are open.

        Where there is none it is the one that failed the longest ago, if that refuses by itself; otherwise nobody is
        kept waiting for it. Raises Unavailable.
        """
        now = self._clock()
        found = [one for target in targets if (one := self._with_credential(target, now)) is not None]
        if found:
            return found
        watches = [watch for target in targets if (watch := self._blocking(target, target.credential, now)) is not None]
        least = min(watches, key=lambda watch: watch.failed_at)
        if least.status in BRIEF:
            return [next(target for target in targets if self._blocking(target, target.credential, now) is least)]
        wait = max(1, math.ceil(min(watch.trial_at for watch in watches) - now))
        raise Unavailable("The provider is out of order; the gateway looks every few seconds.", retry_after=wait)

    def begin(self, target: Target) -> None:
        """An attempt begins while some are open: where it is a trial, there is no other for a while."""
        provider, credential, model = key_of(target)
        for key in ((provider, credential, model), (provider, credential, "")):
            if key in self.open:
                self.open[key].trial_at = self._clock() + TRIAL

    def _with_credential(self, target: Target, now: float) -> Target | None:
        for card in (target.credential, *(card for card in target.provider.credentials if card != target.credential)):
            if self._blocking(target, card, now) is None:
                return target if card == target.credential else Target(target.provider, target.model, card)
        return None

    def _blocking(self, target: Target, card: CredentialCard | None, now: float) -> Watch | None:
        """The open breaker because of which the target is not tried now. A token that was replaced is another one."""
        provider, credential = target.provider.id, card.id if card else ""
        for key in ((provider, credential, target.model), (provider, credential, "")):
            watch = self.open.get(key)
            if watch is None:
                continue
            if watch.status in (401, 403) and watch.target.credential != card:
                self._close(key)
            elif now < watch.trial_at:
                return watch
        return None

    # --- calls that cost nothing -------------------------------------------------------------------------------------

    def due(self) -> list[Watch]:
        """Those that are to be looked at now; they are due again after PROBE seconds."""
        now = self._clock()
        found = [watch for watch in self.open.values() if now >= watch.probe_at]
        for watch in found:
            watch.probe_at, watch.trial_at = now + PROBE, now + TRIAL
        return found

    def looked(self, watch: Watch, *, ok: bool) -> None:
        """What came of it. A token that is taken again is good; of all else the next request is the trial."""
        if not ok:
            watch.trial_at = self._clock() + TRIAL
        elif watch.status == 401:
            self._close((*key_of(watch.target)[:2], ""))
        else:
            watch.trial_at = self._clock()

    # --- retries -----------------------------------------------------------------------------------------------------

    def may_retry(self, target: Target) -> bool:
        """Take a retry out of its provider's allowance, which grows with the requests of this process."""
        allowance = self._allowances.setdefault(target.provider.id, Allowance(counted=self.requests))
        grown = allowance.tokens + RETRIES * (self.requests - allowance.counted)
        allowance.tokens, allowance.counted = min(grown, MOST_RETRIES), self.requests
        if allowance.tokens < 1:
            return False
        allowance.tokens -= 1
        return True

    def retry_worked(self, target: Target) -> None:
        """It burdened nobody: it is given back."""
        allowance = self._allowances.get(target.provider.id)
        if allowance is not None:
            allowance.tokens = min(allowance.tokens + 1, MOST_RETRIES)

    # --- to look at --------------------------------------------------------------------------------------------------

    def watches(self) -> Iterable[Watch]:
        return self._watched.values()

    def blocking(self, target: Target) -> Watch | None:
        """The open breaker of a target, for whoever only looks."""
        provider, credential, model = key_of(target)
        return self.open.get((provider, credential, model)) or self.open.get((provider, credential, ""))

    def now(self) -> float:
        return self._clock()


def key_of(target: Target) -> Key:
    return target.provider.id, target.credential.id if target.credential else "", target.model
