"""POST /v1/responses: https://platform.openai.com/docs/api-reference/responses/create.

What is done with a response by its id, and `compact` and `input_tokens`, take the way of every other operation.
"""

from typing import ClassVar

import msgspec
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from ninja import Router

from gateway.endpoints.describe import body
from gateway.parsing import asks, mentions
from gateway.parsing.asks import Ask, Form
from gateway.parsing.operations import Operation, query
from gateway.parsing.places import Place
from gateway.pipeline import handle

router = Router(tags=["responses"])


class Responses(msgspec.Struct, frozen=True):
    takes_uploads: ClassVar[bool] = False

    def parse(self, request: HttpRequest, place: Place) -> Ask:
        """A prompt that the provider keeps has its own model: then the body need not name one."""
        raw, fields = asks.read(request.body)
        model = place.deployment or fields.model
        return Ask(
            endpoint="responses",
            path="/responses",
            model=model if isinstance(model, str) else "",
            fields=raw,
            size=len(request.body),
            form=Form.RESPONSES,
            stream=bool(fields.stream),
            end_user=asks.end_user(fields.safety_identifier, fields.user),
            max_tokens=fields.max_output_tokens,
            query=query(request, place),
            ids=tuple(mentions.in_body(raw, request.body)),
            names_model=isinstance(model, str),
            bound="max_output_tokens",
        )


ENDPOINT = Responses()


@router.post(
    "/responses",
    summary="Create a response",
    openapi_extra=body({"model": "echo", "input": "Hello", "stream": False}, required=["input"]),
)
async def create(request: HttpRequest) -> HttpResponse | StreamingHttpResponse:
    return await handle(request, ENDPOINT)


@router.get("/responses", include_in_schema=False)
async def connect(request: HttpRequest) -> HttpResponse | StreamingHttpResponse:
    """No operation of OpenAI's, but the address at which its libraries ask for a WebSocket."""
    return await handle(request, Operation())
