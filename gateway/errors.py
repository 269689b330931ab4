"""Every way in which a request can fail, as one tree; the attributes are what the client reads.

The wire form is OpenAI's: {"error": {"message", "type", "param", "code"}}, all four keys always there
(https://platform.openai.com/docs/guides/error-codes). `gateway.api` is the only place that turns one into HTTP; after
the head has gone out, `sse.error_event` turns it into the last event of the stream.

    GatewayError
    |-- BadRequest 400            |-- Unauthorized 401        |-- Forbidden 403
    |   |-- MissingField          |-- MethodNotAllowed 405    |   |-- ScopeRefused, EndUserBlocked
    |   |-- DuplicateField        |-- NotFound 404            |-- BodyTimeout 408, Conflict 409
    |-- RateLimited 429           |   |-- UnknownModel        |-- BodyTooLarge 413
    |-- BudgetExhausted 429       |-- InternalError 500       |-- UnsupportedMedia 415
    |                             |                           |-- NoWebSocket 426
    |-- Overloaded 503
    |   |-- LedgerUnavailable
    |-- UpstreamError 502  (sent: whether the request may have reached the provider)
        |-- Unsupported 400
        |-- UpstreamUnreachable       |-- UpstreamBroken         |-- UpstreamInvalid
        |-- UpstreamTimeout 504       |-- StreamInterrupted      |-- UpstreamRefused (the provider's own status)
"""

import math
from collections.abc import Mapping
from typing import ClassVar

import msgspec

LONGEST_WAIT = 60.0  # seconds that a client's library waits when told to


class GatewayError(Exception):
    """One failure. `message` is for the client: it names no secret, no internal address and no other tenant."""

    status: int = 500
    type: str = "server_error"
    code: str | None = None
    param: str | None = None
    # False where the same call cannot succeed soon: the answer then carries `x-should-retry: false`.
    retryable: ClassVar[bool | None] = None
    outcome: str = "error"

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.headers: dict[str, str] = dict(headers or {})
        if param is not None:
            self.param = param
        if code is not None:
            self.code = code

    def body(self) -> dict[str, dict[str, str | None]]:
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}

    def json(self) -> bytes:
        return msgspec.json.encode(self.body())


class BadRequest(GatewayError):
    status = 400
    type = "invalid_request_error"


class MissingField(BadRequest):
    code = "missing_required_parameter"


class DuplicateField(BadRequest):
    code = "duplicate_parameter"


class Unauthorized(GatewayError):
    """The same text for an unknown, wrong, expired and disabled key: which of them it is, is nobody's business."""

    status = 401
    type = "invalid_request_error"
    code = "invalid_api_key"
    retryable = False


class KeyCompromised(Unauthorized):
    """The key was found to be in wrong hands while the request was under way."""

    outcome = "key_compromised"


class Forbidden(GatewayError):
    status = 403
    type = "invalid_request_error"
    code = "permission_denied"
    retryable = False


BLOCKED = "This end user is blocked by whoever runs this gateway."


class EndUserBlocked(Forbidden):
    """The key is good; whoever runs the gateway wants nothing from this user of it."""

    code = "end_user_blocked"
    outcome = "end_user_blocked"


class ScopeRefused(Forbidden):
    """The key is good, and may not do this: the endpoint, the size of the answer, the place of the caller."""

    code = "key_scope"


class RateLimited(GatewayError):
    """One of the gateway's own limits is reached. `kind` is what was too much: requests or tokens.

    `wait` is in seconds; clients take neither `retry-after` over 60 s for an order nor give up, so they are told.
    """

    status = 429
    code = "rate_limit_exceeded"
    outcome = "rate_limited"

    def __init__(self, message: str, *, kind: str, wait: float) -> None:
        milliseconds = math.ceil(wait * 1000)
        headers = {"retry-after": str(math.ceil(milliseconds / 1000)), "retry-after-ms": str(milliseconds)}
        if wait > LONGEST_WAIT:
            headers["x-should-retry"] = "false"
        super().__init__(message, headers=headers)
        self.type = kind
        self.wait = wait


class BudgetExhausted(GatewayError):
    """A budget is spent, or what is left of it does not cover the most that this call may cost."""

    status = 429
    type = "insufficient_quota"
    code = "insufficient_quota"
    retryable = False
    outcome = "budget_exhausted"


class NotFound(GatewayError):
    status = 404
    type = "invalid_request_error"
    code = "unknown_url"


class UnknownModel(NotFound):
    code = "model_not_found"
    param = "model"


class MethodNotAllowed(GatewayError):
    status = 405
    type = "invalid_request_error"
    code = "method_not_supported"


class Conflict(GatewayError):
    """An equal request is under way: its answer can be had soon."""

    status = 409
    type = "invalid_request_error"
    code = "idempotency_conflict"


class BodyTimeout(GatewayError):
    status = 408
    type = "invalid_request_error"
    code = "request_timeout"


class BodyTooLarge(GatewayError):
    status = 413
    type = "invalid_request_error"
    code = "request_too_large"


class UnsupportedMedia(GatewayError):
    status = 415
    type = "invalid_request_error"
    code = "unsupported_media_type"


class NoWebSocket(GatewayError):
    """https://www.rfc-editor.org/rfc/rfc9110#section-15.5.22, though what is required here is not to upgrade."""

    status = 426
    type = "invalid_request_error"
    code = "websocket_not_supported"
    retryable = False

    # What serves over plain HTTP what these addresses serve over a WebSocket, at OpenAI.
    TWINS: ClassVar[Mapping[str, str]] = {
        "/v1/responses": "POST /v1/responses with `stream: true`",
        "/v1/realtime": "POST /v1/realtime/calls, which opens a WebRTC session",
    }

    def __init__(self, path: str) -> None:
        twin = self.TWINS.get(path)
        instead = f"Use {twin}." if twin else "Use its operations over HTTP."
        super().__init__(f"WebSocket is not served here ({path}). {instead}", headers={"upgrade": "HTTP/1.1"})


class InternalError(GatewayError):
    code = "internal_error"


class Overloaded(GatewayError):
    """The gateway has no room now; nothing was sent upstream."""

    status = 503
    type = "service_unavailable_error"
    code = "overloaded"

    def __init__(self, message: str, *, retry_after: int = 1, code: str | None = None) -> None:
        super().__init__(message, code=code, headers={"retry-after": str(retry_after)})


class LedgerUnavailable(Overloaded):
    """What cannot be recorded is not sent."""

    code = "ledger_unavailable"


class UpstreamError(GatewayError):
    """The provider failed. `sent` says whether the request may have reached it, and so may be billed."""

    status = 502
    type = "upstream_error"
    code: str | None = "bad_gateway"
    outcome = "upstream_error"

    def __init__(
        self,
        message: str,
        *,
        sent: bool,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message, param=param, code=code, headers=headers)
        self.sent = sent


class Unsupported(UpstreamError):
    """What is asked for is nothing that this provider has; nothing was sent, so that the next route may have it."""

    status = 400
    type = "invalid_request_error"
    code = "unsupported_parameter"
    outcome = "unsupported"
    retryable = False

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message, sent=False, param=param, code=code)


class UpstreamUnreachable(UpstreamError):
    """No connection: refused, no such name, TLS refused, an address that is not allowed."""

    code = "upstream_unreachable"
    outcome = "upstream_unreachable"


class UpstreamBroken(UpstreamError):
    """The connection died, or what came was not HTTP."""

    code = "upstream_broken"


class UpstreamInvalid(UpstreamError):
    """The provider answered 200 with something that is no completion: HTML, nothing, half a document."""

    code = "upstream_invalid_response"


class UpstreamTimeout(UpstreamError):
    """A limit of the route ran out: connecting, the first byte, a gap, the total."""

    status = 504
    type = "timeout"
    code = "upstream_timeout"
    outcome = "upstream_timeout"


class StreamInterrupted(UpstreamError):
    """The stream broke after its first byte: it ends with this as an event and without `[DONE]`."""

    code = "stream_interrupted"
    outcome = "truncated"


class UpstreamRefused(UpstreamError):
    """The provider's own refusal, in OpenAI's shape, with its status, code and param kept.

    `upstream_status` is what the provider answered, where `status` had to differ; `original` is its text, for what is
    captured only: masked, and at most 2,000 characters.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int,
        type: str | None = None,  # noqa: A002
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
        upstream_status: int | None = None,
        original: str = "",
    ) -> None:
        super().__init__(message, sent=True, param=param, headers=headers)
        self.status = status
        self.type = type or ("invalid_request_error" if status < 500 else "upstream_error")
        self.code = code
        self.upstream_status = status if upstream_status is None else upstream_status
        self.original = original
