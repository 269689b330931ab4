"""POST /v1/embeddings: https://platform.openai.com/docs/api-reference/embeddings/create."""

from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from ninja import Router

from gateway.endpoints.describe import body
from gateway.pipeline import Completion, handle

router = Router(tags=["embeddings"])
ENDPOINT = Completion("embeddings", "/embeddings", streams=False)


@router.post(
    "/embeddings",
    summary="Create embeddings",
    openapi_extra=body({"model": "echo", "input": "Hello"}, required=["model", "input"]),
)
async def create(request: HttpRequest) -> HttpResponse | StreamingHttpResponse:
    return await handle(request, ENDPOINT)
