"""Every operation under /v1 that has no file of its own: https://platform.openai.com/docs/api-reference."""

from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from ninja import Path, Router

from gateway.parsing.operations import Operation
from gateway.pipeline import handle

router = Router(tags=["everything else"])
ENDPOINT = Operation()
METHODS = ["GET", "POST", "DELETE", "PATCH", "PUT"]


@router.api_operation(METHODS, "/{path:operation}", summary="Any other operation, passed on to a provider as it is")
async def forward(request: HttpRequest, operation: Path[str]) -> HttpResponse | StreamingHttpResponse:
    """`/PROVIDER/v1/...`, `x-gateway-provider` or the ids say which provider it is; else it is the key's own."""
    return await handle(request, ENDPOINT)
