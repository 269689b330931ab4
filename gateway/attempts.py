"""One try at one target, as it stands in the row of its request."""

from decimal import Decimal
from typing import Any

import msgspec

from gateway.errors import EndUserBlocked, KeyCompromised
from gateway.parsing.asks import Ask
from ledger import counting
from ledger.usage import Usage
from providers.targets import Target

# How an attempt ends of which nobody knows whether the provider did the work.
CUT_OFF = frozenset({"cancelled", "pending", "upstream_timeout", "upstream_broken", "stream_interrupted"})
CUT_HERE = frozenset({"buffers_full", KeyCompromised.code, EndUserBlocked.code})  # by the gateway itself
MAY_BE_CHARGED = CUT_OFF | CUT_HERE


class Attempt(msgspec.Struct):
    target: Target
    started: float
    outcome: str = "pending"
    status: int = 0
    sent: bool = False
    milliseconds: int = 0
    span: str = ""  # its id, where the request is traced
    received: int = 0  # bytes of a whole answer that broke off
    # Of one that another attempt followed, where it may have been charged all the same.
    usage: Usage | None = None
    usage_source: str = "estimated"
    cost: Decimal | None = None  # US dollars; None: unknown

    @property
    def may_be_charged(self) -> bool:
        return self.sent and self.outcome in MAY_BE_CHARGED

    def estimate(self, ask: Ask) -> Usage:
        """The tokens that went out and came, as far as can be told."""
        came = counting.tokens_of_bytes(self.received)
        return Usage(counting.prompt_tokens(ask.fields), min(came, ask.output_bound(came)))

    def row(self) -> dict[str, Any]:
        row: dict[str, Any] = {
            "provider": self.target.provider.name,
            "model": self.target.model,
            "outcome": self.outcome,
            "status": self.status,
            "sent": self.sent,
            "ms": self.milliseconds,
        }
        if self.usage is not None:
            row["tokens_in"], row["tokens_out"] = self.usage.tokens_in, self.usage.tokens_out
            row["usage_source"] = self.usage_source
            row["cost"] = None if self.cost is None else f"{self.cost.normalize():f}"
        return row
