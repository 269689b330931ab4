"""The limits of a process: one object for requests, and behind it the back end that counts now."""

from collections.abc import Callable

from gateway.limits.claims import Charge, Claim, Estimates, Verdict
from gateway.limits.memory import MemoryLimiter


class Limiter:
    """Starts in memory; the engine moves it to a shared back end where other processes are found."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.estimates = Estimates()
        self.memory = MemoryLimiter(clock)

    async def take(self, claim: Claim) -> Verdict:
        return self.memory.take_now(claim)

    def release(self, claim: Claim) -> None:
        self.memory.release(claim)

    def correct(self, charge: Charge, actual: float) -> None:
        self.memory.correct(charge, actual)
