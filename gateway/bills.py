"""What one request costs: the prices that it was admitted with, what is set aside for it, and the final amount."""

from decimal import Decimal

import msgspec

from gateway.attempts import Attempt
from ledger import prices
from ledger.budgets import Budgets, Hold
from ledger.entries import Charge
from ledger.money import ZERO, units
from ledger.prices import Price
from ledger.usage import Usage
from providers.targets import Target

RESERVATION = "reservation"
PROVIDER, NONE = "provider", "none"


class Bill(msgspec.Struct):
    """`price_of` by provider id and model, None where the price is unknown; `reserved` is a call's worst case (USD)."""

    price_of: dict[tuple[str, str], Price | None] = msgspec.field(default_factory=dict)
    reserved: Decimal | None = None
    budgets: Budgets | None = None
    hold: Hold | None = None
    calls: int = 1  # that money is set aside for: another beside one that may have been charged

    @property
    def set_aside(self) -> Decimal | None:
        """US dollars, the most that the request can cost."""
        return None if self.reserved is None else self.reserved * self.calls

    async def add_call(self) -> None:
        """Set as much aside again. Raises Exhausted or Unavailable, and then all is as it was."""
        if self.hold is not None and self.budgets is not None:
            await self.budgets.extend(self.hold, self.hold.amount)
        self.calls += 1

    def charges(self) -> list[Charge]:
        """What is set aside, for the line that is written before anything is sent."""
        return self.hold.charges() if self.hold is not None else []

    def cost(
        self, target: Target | None, usage: Usage | None, *, sent: bool, told_by: str = PROVIDER, goes_on: bool = False
    ) -> tuple[Decimal | None, str]:
        """US dollars and where the price is from; 0 for what was not sent or was refused, None where it is unknown.

        `told_by` is the usage's source; by "none" it says only that something was done. `goes_on`: the provider works
        on when the call is over, and what it did then the client asks for as often as it likes: unless the provider
        has said it already, it is the most that it can be.
        """
        price = self.price_of.get((target.provider.id, target.model)) if target is not None else None
        if not sent or usage is None:
            return ZERO, price.source if price is not None else ""
        if goes_on and told_by != PROVIDER and self.reserved is not None:
            return self.reserved, RESERVATION
        known = price is not None and (told_by != NONE or price.request is not None)
        amount = prices.cost(usage, price) if price is not None and known else None
        return amount, price.source if price is not None and amount is not None else ""

    def with_earlier(self, cost: Decimal | None, attempts: list[Attempt], *, goes_on: bool) -> Decimal | None:
        """The cost of the last attempt, and what those before it may have cost; None where one of them is unknown."""
        for attempt in attempts[:-1]:
            usage = attempt.usage
            if usage is not None:
                told_by = attempt.usage_source
                attempt.cost, _ = self.cost(attempt.target, usage, sent=True, told_by=told_by, goes_on=goes_on)
                cost = None if cost is None or attempt.cost is None else cost + attempt.cost
        return cost

    def settle(self, cost: Decimal | None) -> list[Charge]:
        """Take the cost out of what was set aside; an unknown one takes all of that, since it may have cost it."""
        if self.hold is None or self.budgets is None:
            return []
        return self.budgets.settle(self.hold, self.hold.amount if cost is None else units(cost))

    def release(self) -> None:
        if self.hold is not None and self.budgets is not None:
            self.budgets.release(self.hold)
