"""POST /v1/completions: https://platform.openai.com/docs/api-reference/completions/create."""

from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from ninja import Router

from gateway.endpoints.describe import body
from gateway.pipeline import Completion, handle

router = Router(tags=["completions"])
ENDPOINT = Completion("completions", "/completions", streams=True)


@router.post(
    "/completions",
    summary="Create a completion",
    openapi_extra=body({"model": "echo", "prompt": "Once", "stream": False}, required=["model", "prompt"]),
)
async def create(request: HttpRequest) -> HttpResponse | StreamingHttpResponse:
    return await handle(request, ENDPOINT)
