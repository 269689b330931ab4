"""POST /v1/messages: https://docs.anthropic.com/en/api/messages, passed on to providers that have it.

`count_tokens` and batches take the way of every other operation.
"""

from typing import ClassVar

import msgspec
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from ninja import Router

from gateway.endpoints.describe import body
from gateway.errors import MissingField
from gateway.parsing import asks, mentions
from gateway.parsing.asks import MAX_END_USER_CHARS, Ask, Form
from gateway.parsing.operations import query
from gateway.parsing.places import Place
from gateway.pipeline import handle

router = Router(tags=["messages"])


class Messages(msgspec.Struct, frozen=True):
    takes_uploads: ClassVar[bool] = False

    def parse(self, request: HttpRequest, place: Place) -> Ask:
        raw, fields = asks.read(request.body)
        if not isinstance(fields.model, str):
            raise MissingField("model: Field required", param="model")
        return Ask(
            endpoint="messages",
            path="/messages",
            model=fields.model,
            fields=raw,
            size=len(request.body),
            form=Form.MESSAGES,
            stream=bool(fields.stream),
            end_user=_user(raw),
            max_tokens=fields.max_tokens,
            query=query(request, place),
            ids=tuple(mentions.in_body(raw, request.body)),
            bound="max_tokens",
        )


ENDPOINT = Messages()


def _user(fields: dict[str, msgspec.Raw]) -> str:
    try:
        user = msgspec.json.decode(fields.get("metadata", b"null"))["user_id"]
    except (msgspec.MsgspecError, ValueError, TypeError, KeyError, RecursionError):
        return ""
    return user[:MAX_END_USER_CHARS].replace("\0", "\N{REPLACEMENT CHARACTER}") if isinstance(user, str) else ""


@router.post(
    "/messages",
    summary="Create a message (Anthropic's API)",
    openapi_extra=body(
        {"model": "claude", "max_tokens": 100, "messages": [{"role": "user", "content": "Hello"}]},
        required=["model", "max_tokens", "messages"],
    ),
)
async def create(request: HttpRequest) -> HttpResponse | StreamingHttpResponse:
    return await handle(request, ENDPOINT)
