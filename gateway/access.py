"""One structured line a request: what came, what became of it, how long it took; never a key, a prompt or a header."""

from typing import Any

import structlog

from gateway.receipts import Call, Receipt

log = structlog.get_logger("access")


def write(call: Call, method: str, path: str) -> None:
    """Times are in milliseconds: `ms` in all, of which the providers took `upstream_ms` and we took `gateway_ms`."""
    now = call.process.clock()
    total = now - call.started
    fields: dict[str, Any] = {
        "event": "request",
        "request_id": call.id,
        "method": method,
        "path": path[:200],
        "status": call.status,
        "key": call.key.id if call.key else None,
        "bytes_out": call.bytes_out,
        "ms": _ms(total),
    }
    receipt = call.receipt
    if receipt is not None:
        last = receipt.attempts[-1] if receipt.attempts else None
        target = last.target if last else None
        usage, line, upstream = receipt.usage, receipt.line, upstream_seconds(receipt, now)
        fields |= {
            "end": receipt.outcome,
            "cache": receipt.cache or None,
            "alias": receipt.alias,
            "model": receipt.ask.model[:300],
            "provider": target.provider.name if target else None,
            "upstream_model": target.model[:300] if target else None,
            "stream": receipt.ask.stream,
            "attempts": len(receipt.attempts),
            "tokens_in": usage.tokens_in if usage else None,
            "tokens_out": usage.tokens_out if usage else None,
            "tokens_cached": usage.tokens_cached if usage else None,
            "cost": None if line is None or line.cost is None else f"{line.cost:f}",
            "ttft_ms": None if receipt.ttft is None else _ms(receipt.ttft),
            "upstream_ms": _ms(upstream),
            "gateway_ms": _ms(max(0.0, total - upstream)),
        }
    if call.name != call.id:
        fields["named"] = call.name
    if call.error is not None:
        fields["error"] = call.error.code or call.error.type
    log.event(fields)


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 1)


def upstream_seconds(receipt: Receipt, now: float) -> float:
    """What was spent on providers: each attempt, and of a stream the time until its end as well."""
    if not receipt.attempts:
        return 0.0
    last = receipt.attempts[-1]
    spent = sum(attempt.milliseconds for attempt in receipt.attempts) / 1000
    if receipt.ask.stream and last.outcome in ("ok", "pending"):
        spent += now - last.started - last.milliseconds / 1000
    return spent
