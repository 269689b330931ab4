"""While the shared store is away, each process lets its share pass: the limit divided by the number of processes."""

from collections.abc import Callable, Mapping

from gateway.limits.claims import Charge, Claim, Slot, Verdict
from gateway.limits.gcra import Rate
from gateway.limits.memory import MemoryLimiter


class AloneLimiter:
    """Buckets begin as full or empty as they were known to be, so that an outage gives nobody a second burst."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.memory = MemoryLimiter(clock)

    def take(self, claim: Claim, processes: int, debts: Mapping[str, float], used: Mapping[str, int]) -> Verdict:
        """`debts`: seconds until the shared bucket was to be full; `used`: places that the process holds already."""
        share = Claim(
            claim.holder,
            [
                Slot(slot.bucket, max(1, slot.limit // processes) - used.get(slot.bucket, 0), slot.scope)
                for slot in claim.slots
            ],
            [
                Charge(charge.bucket, shared(charge.rate, processes), charge.cost, charge.kind, charge.scope)
                for charge in claim.charges
            ],
        )
        self.memory.adopt(debts)
        verdict = self.memory.take_now(share)
        if verdict.refused is None:
            claim.alone = share
        elif isinstance(verdict.refused, Slot):
            verdict.refused = claim.slots[share.slots.index(verdict.refused)]
        return verdict

    def release(self, claim: Claim) -> None:
        assert claim.alone is not None
        self.memory.release(claim.alone)

    def correct(self, claim: Claim, charge: Charge, actual: float) -> None:
        assert claim.alone is not None
        self.memory.correct(claim.alone.charges[claim.charges.index(charge)], actual)


def shared(rate: Rate, processes: int) -> Rate:
    """The rate of one process of that many. A full burst takes as long to come back as it does for all together."""
    return Rate(rate.limit, rate.burst / processes, rate.interval * processes, rate.tolerance)
