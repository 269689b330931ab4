"""POST /v1/chat/completions: https://platform.openai.com/docs/api-reference/chat/create."""

from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from ninja import Router

from gateway.endpoints.describe import body
from gateway.pipeline import Endpoint, handle

router = Router(tags=["chat"])
ENDPOINT = Endpoint("chat.completions", "/chat/completions", streams=True)


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
