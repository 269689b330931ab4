"""One structured line a request: what came, what became of it, how long it took; never a key, a prompt or a header."""

from typing import Any

import structlog

from gateway.receipts import Call

log = structlog.get_logger("access")


def write(call: Call, method: str, path: str) -> None:
    fields: dict[str, Any] = {
        "request_id": call.id,
        "method": method,
        "path": path[:200],
        "status": call.status,
        "key": call.key.id if call.key else None,
        "bytes_out": call.bytes_out,
        "ms": round((call.process.clock() - call.started) * 1000, 1),
    }
    receipt = call.receipt
    if receipt is not None:
        last = receipt.attempts[-1] if receipt.attempts else None
        fields.update(
            outcome=receipt.outcome,
            alias=receipt.alias,
            model=receipt.ask.model,
            provider=last.target.provider.name if last else None,
            attempts=len(receipt.attempts),
            tokens_in=receipt.usage.tokens_in if receipt.usage else None,
            tokens_out=receipt.usage.tokens_out if receipt.usage else None,
            ttft_ms=None if receipt.ttft is None else round(receipt.ttft * 1000, 1),
        )
    if call.error is not None:
        fields["error"] = call.error.code or call.error.type
    log.info("request", **fields)
