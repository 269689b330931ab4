"""POST /v1/client_tokens: with a secret key, a token of a few minutes for one end user (docs/apps.md)."""

import msgspec
from django.conf import settings
from django.http import HttpRequest, HttpResponse
from ninja import Router

from gateway.endpoints.describe import body
from gateway.errors import BadRequest, ScopeRefused
from gateway.parsing import asks
from gateway.pipeline import call_of
from providers import minting
from providers.minting import MintRefused, Wish

router = Router(tags=["client tokens"])
_wish = msgspec.json.Decoder(Wish)


@router.post(
    "/client_tokens",
    summary="Make a token for one end user of the application",
    openapi_extra=body({"end_user": "user-4711", "expires_in": 600, "aliases": ["echo"]}, required=["end_user"]),
)
async def create(request: HttpRequest) -> HttpResponse:
    call = call_of(request)
    assert call.key is not None
    asks.read_object(request.body)
    try:
        wish = _wish.decode(request.body)
    except msgspec.ValidationError as exc:
        raise asks.invalid(exc) from None
    try:
        made = minting.mint(call.key, wish, settings.GATEWAY_KEY_PEPPERS, call.at)
    except MintRefused as exc:
        if not exc.field:
            raise ScopeRefused(str(exc)) from None
        raise BadRequest(str(exc), param=exc.field, code="invalid_value") from None
    answer = {
        "object": "client_token",
        "id": made.id,
        "token": made.token,
        "end_user": made.claims.end_user,
        "expires_at": made.claims.expires_at,
    }
    response = HttpResponse(msgspec.json.encode(answer), content_type="application/json")
    response.headers["cache-control"] = "no-store"
    return response
