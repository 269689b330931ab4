"""Limits of one process alone: every bucket a number in a dictionary, every answer at once."""

from collections.abc import Callable, Mapping

from gateway.limits import gcra
from gateway.limits.claims import Charge, Claim, Standing, Verdict, standing

MAX_BUCKETS = 50_000


class MemoryLimiter:
    """At most MAX_BUCKETS buckets; beyond them the one that was used longest ago is forgotten, and so is full."""

    def __init__(self, clock: Callable[[], float], *, capacity: int = MAX_BUCKETS) -> None:
        self.clock = clock
        self.capacity = capacity
        self._tats: dict[str, float] = {}
        self._used: dict[str, int] = {}

    async def take(self, claim: Claim) -> Verdict:
        return self.take_now(claim)

    def take_now(self, claim: Claim) -> Verdict:
        verdict = Verdict()
        for slot in claim.slots:
            if self._used.get(slot.bucket, 0) >= slot.limit:
                verdict.refused = slot
                break
        now, tats = self.clock(), self._tats
        if verdict.refused is None:
            for charge in claim.charges:
                seconds = gcra.wait(charge.rate, tats.get(charge.bucket, now), now, charge.cost)
                if seconds:
                    verdict.refused, verdict.wait = charge, seconds
                    break
        taken = verdict.refused is None
        for charge in claim.charges:
            known = tats.pop(charge.bucket, None)
            tat = now if known is None else known
            if taken:
                charge.until = tat = gcra.charged(charge.rate, tat, now, charge.cost)
            if taken or known is not None:
                tats[charge.bucket] = tat
            verdict.note(charge.kind, standing(charge.rate, tat, now))
        if taken:
            for slot in claim.slots:
                self._used[slot.bucket] = self._used.get(slot.bucket, 0) + 1
        while len(tats) > self.capacity:
            del tats[next(iter(tats))]
        return verdict

    def release(self, claim: Claim) -> None:
        """Give the places back."""
        for slot in claim.slots:
            left = self._used.get(slot.bucket, 1) - 1
            if left > 0:
                self._used[slot.bucket] = left
            else:
                self._used.pop(slot.bucket, None)

    def correct(self, charge: Charge, actual: float) -> None:
        """Make a charge what it should have been; a bucket may be overdrawn by that, and blocks until it is not."""
        seconds = charge.correction(actual, self.clock())
        self._tats[charge.bucket] = self._tats.get(charge.bucket, charge.until) + seconds

    def look(self, charge: Charge) -> Standing:
        now = self.clock()
        return standing(charge.rate, self._tats.get(charge.bucket, now), now)

    # --- moving to another back end and back -----------------------------------------------------------------------

    def debts(self) -> dict[str, float]:
        """Seconds until each bucket is full, of those that are not."""
        now = self.clock()
        return {bucket: tat - now for bucket, tat in self._tats.items() if tat > now}

    def used(self) -> dict[str, int]:
        """Places taken, of each bucket that has any."""
        return dict(self._used)

    def occupy(self, used: Mapping[str, int]) -> None:
        for bucket, count in used.items():
            self._used[bucket] = self._used.get(bucket, 0) + count

    def adopt(self, debts: Mapping[str, float]) -> None:
        now = self.clock()
        for bucket, seconds in debts.items():
            self._tats[bucket] = max(self._tats.get(bucket, now), now + seconds)
