"""An error as the client's library reads it: in OpenAI's shape, on Anthropic's paths in Anthropic's."""

import msgspec

from gateway.errors import GatewayError
from gateway.parsing.asks import Form
from gateway.replies.sse import error_event

# https://docs.anthropic.com/en/api/errors
ANTHROPIC_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "timeout_error",
    413: "request_too_large",
    415: "invalid_request_error",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}


def body(exc: GatewayError, *, anthropic: bool = False, request_id: str = "") -> bytes:
    """The body of an answer."""
    if not anthropic:
        return exc.json()
    return msgspec.json.encode({"type": "error", "error": _anthropic(exc), "request_id": request_id})


def event(exc: GatewayError, form: Form) -> bytes:
    """The event that ends a broken stream.

    Of Responses the nested form, which every library raises: of the flat one, which the specification has,
    openai-python makes an event like any other.
    """
    if form is Form.RESPONSES:
        return b"event: error\ndata: " + msgspec.json.encode({"type": "error", **exc.body()}) + b"\n\n"
    if form is Form.MESSAGES:
        return b"event: error\ndata: " + msgspec.json.encode({"type": "error", "error": _anthropic(exc)}) + b"\n\n"
    return error_event(exc)


def _anthropic(exc: GatewayError) -> dict[str, str]:
    known = exc.type in ANTHROPIC_TYPES.values() and exc.status not in (401, 403, 404)
    kind = exc.type if known else ANTHROPIC_TYPES.get(exc.status, "api_error")
    return {"type": kind, "message": exc.message}
