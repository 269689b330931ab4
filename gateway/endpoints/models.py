"""GET /v1/models and /v1/models/{id}: https://platform.openai.com/docs/api-reference/models; made here."""

from typing import Any

import msgspec
from django.http import HttpRequest, HttpResponse
from ninja import Path, Router

from gateway import listing
from gateway.errors import UnknownModel
from gateway.pipeline import call_of
from providers import snapshot
from providers.targets import AliasCard, KeyCard

router = Router(tags=["models"])


@router.get("/models", summary="List the models that the key may use")
async def index(request: HttpRequest) -> HttpResponse:
    """The exact aliases, and under each pattern what its provider lists."""
    key, config = _key(request), snapshot.current()
    names = dict.fromkeys(alias.name for alias in config.aliases() if not alias.name.endswith("*"))
    names.update(dict.fromkeys(await listing.names(call_of(request).process, config)))
    data = [_model(match[0], name) for name in names if key.may_use(name) and (match := config.match(name))]
    return _json({"object": "list", "data": data})


@router.get("/models/{path:model_id}", summary="One model; its id may hold `/` and `:`")
async def retrieve(request: HttpRequest, model_id: Path[str]) -> HttpResponse:
    match = snapshot.current().match(model_id) if _key(request).may_use(model_id) else None
    if match is None:
        raise UnknownModel(f"The model `{model_id}` does not exist or you do not have access to it.")
    return _json(_model(match[0], model_id))


def _key(request: HttpRequest) -> KeyCard:
    key = call_of(request).key
    assert key is not None
    return key


def _model(alias: AliasCard, name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": alias.created, "owned_by": "gateway"}


def _json(value: dict[str, Any]) -> HttpResponse:
    return HttpResponse(msgspec.json.encode(value), content_type="application/json")
