"""POST /v1/chat/completions: https://platform.openai.com/docs/api-reference/chat/create."""

from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from ninja import Router

from gateway.endpoints.describe import body
from gateway.parsing.operations import Operation
from gateway.pipeline import Completion, handle

router = Router(tags=["chat"])
ENDPOINT = Completion("chat.completions", "/chat/completions", streams=True)


@router.post(
    "/chat/completions",
    summary="Create a chat completion",
    openapi_extra=body(
        {"model": "echo", "messages": [{"role": "user", "content": "Hello"}], "stream": False},
        required=["model", "messages"],
    ),
)
async def create(request: HttpRequest) -> HttpResponse | StreamingHttpResponse:
    return await handle(request, ENDPOINT)


@router.get("/chat/completions", summary="List the chat completions that a provider has stored")
async def stored(request: HttpRequest) -> HttpResponse | StreamingHttpResponse:
    return await handle(request, Operation())
