"""The API that clients see: the routes, their authentication, and the only place where an error becomes HTTP."""

import structlog
from asgiref.sync import markcoroutinefunction
from django.http import HttpRequest, HttpResponse
from ninja import NinjaAPI
from ninja.errors import ValidationError
from ninja.security import HttpBearer

from gateway.endpoints import anything, chat, completions, embeddings, key, messages, models, reports, responses, tokens
from gateway.errors import BadRequest, GatewayError, InternalError
from gateway.pipeline import call_of
from gateway.receipts import Call
from gateway.replies import shapes
from providers.targets import KeyCard

log = structlog.get_logger("gateway")


class ClientKeyAuth(HttpBearer):
    """A client key as the bearer token. The handler has checked it on the head, before the body was read."""

    openapi_name = "client key"

    def __init__(self) -> None:
        super().__init__()
        markcoroutinefunction(self)  # ninja asks before each call, and finds out at the first look then

    async def __call__(self, request: HttpRequest) -> KeyCard | None:
        return call_of(request).key

    async def authenticate(self, request: HttpRequest, token: str) -> KeyCard | None:
        return await self(request)


class API(NinjaAPI):
    """Ninja makes a response before each view, for views that set headers on it; ours make their own."""

    def create_temporal_response(self, request: HttpRequest) -> HttpResponse:
        return UNUSED


UNUSED = HttpResponse()
api = API(
    title="LLM gateway",
    description="OpenAI's endpoints, behind your own keys.",
    auth=ClientKeyAuth(),
    docs_url="/docs",
    openapi_url="/docs/openapi.json",
)
# In the order in which paths are looked for; the last one takes what no other does.
for module in (chat, responses, completions, embeddings, messages, models, key, tokens, reports, anything):
    api.add_router("/v1", module.router)


def error_response(exc: GatewayError, call: Call) -> HttpResponse:
    """The error in the shape that the client reads, with the headers by which it decides whether to try again."""
    said = shapes.body(exc, anthropic=call.is_anthropic, request_id=call.id)
    response = HttpResponse(said, status=exc.status, content_type="application/json")
    for name, value in exc.headers.items():
        response.headers[name] = value
    if exc.retryable is not None:
        response.headers.setdefault("x-should-retry", "true" if exc.retryable else "false")
    if exc.status == 401:
        response.headers["www-authenticate"] = 'Bearer realm="gateway"'
    return response


@api.exception_handler(GatewayError)
def _gateway_error(request: HttpRequest, exc: GatewayError) -> HttpResponse:
    call = call_of(request)
    call.error = exc
    return error_response(exc, call)


@api.exception_handler(Exception)
def _unexpected_error(request: HttpRequest, exc: Exception) -> HttpResponse:
    log.error("unexpected_error", request_id=call_of(request).id, exc_info=exc)
    return _gateway_error(request, InternalError("The gateway failed; its log has the cause under the request id."))


@api.exception_handler(ValidationError)
def _validation_error(request: HttpRequest, exc: ValidationError) -> HttpResponse:
    first = exc.errors[0] if exc.errors else {}
    return _gateway_error(request, BadRequest(str(first.get("msg", "invalid request"))))
