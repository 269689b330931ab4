"""POST /v1/keys/report: whoever has found a key that should not lie there says so; no key is needed for it."""

from typing import Annotated

import msgspec
from django.http import HttpRequest, HttpResponse
from ninja import Router

from gateway import leaks
from gateway.endpoints.describe import body
from gateway.errors import NotFound, RateLimited
from gateway.parsing import asks
from gateway.pipeline import call_of
from providers import callers, keys

router = Router(tags=["leaked keys"])
PATH = "/v1/keys/report"
MAX_BYTES = 8192  # of a body that is read without a key


class Report(msgspec.Struct):
    key: Annotated[str, msgspec.Meta(min_length=1, max_length=keys.FOREIGN_CHARS)]


_report = msgspec.json.Decoder(Report)
ANSWER = msgspec.json.encode({"object": "key.report", "received": True})


@router.post(
    "/keys/report",
    auth=None,
    summary="Report a key of this gateway that has leaked",
    openapi_extra=body({"key": "sk-gw-..."}, required=["key"]),
)
async def report(request: HttpRequest) -> HttpResponse:
    """The answer is the same for every key, there or not."""
    call = call_of(request)
    if call.process.budgets is None or call.process.sql is None:
        raise NotFound("This gateway keeps no keys that could be flagged: tell whoever runs it.")
    asks.read_object(request.body)
    try:
        found = _report.decode(request.body)
    except msgspec.ValidationError as exc:
        raise asks.invalid(exc) from None
    if wait := await call.process.sql(leaks.count, callers.network(call.caller())):
        raise RateLimited("Too many reports have come from this address.", kind="requests", wait=wait)
    leaks.look_into(found.key.strip(), call.process.sql)
    return HttpResponse(ANSWER, status=202, content_type="application/json")
