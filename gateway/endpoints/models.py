"""GET /v1/models and /v1/models/{id}: https://platform.openai.com/docs/api-reference/models; made here."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import msgspec
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from ninja import Path, Router

from gateway import listing
from gateway.errors import UnknownModel
from gateway.parsing.operations import Operation
from gateway.pipeline import call_of, handle
from providers import snapshot
from providers.targets import AliasCard, KeyCard

router = Router(tags=["models"])


@router.get("/models", summary="List the models that the key may use")
async def index(request: HttpRequest) -> HttpResponse:
    """The exact aliases, and under each pattern what its provider lists."""
    key, config = _key(request), snapshot.current()
    names = dict.fromkeys(alias.name for alias in config.aliases() if not alias.name.endswith("*"))
    names.update(dict.fromkeys(await listing.names(call_of(request).process, config)))
    shape = _shape(request)
    data = [shape(match[0], name) for name in names if key.may_use(name) and (match := config.match(name))]
    if shape is _model:
        return _json({"object": "list", "data": data})
    ends = {"first_id": data[0]["id"], "last_id": data[-1]["id"]} if data else {"first_id": None, "last_id": None}
    return _json({"data": data, "has_more": False, **ends})


@router.get("/models/{path:model_id}", summary="One model; its id may hold `/` and `:`")
async def retrieve(request: HttpRequest, model_id: Path[str]) -> HttpResponse:
    match = snapshot.current().match(model_id) if _key(request).may_use(model_id) else None
    if match is None:
        raise UnknownModel(f"The model `{model_id}` does not exist or you do not have access to it.")
    return _json(_shape(request)(match[0], model_id))


@router.delete("/models/{path:model_id}", summary="Delete a fine-tuned model of a provider")
async def delete(request: HttpRequest, model_id: Path[str]) -> HttpResponse | StreamingHttpResponse:
    return await handle(request, Operation())


def _key(request: HttpRequest) -> KeyCard:
    key = call_of(request).key
    assert key is not None
    return key


def _shape(request: HttpRequest) -> Callable[[AliasCard, str], dict[str, Any]]:
    """Anthropic's clients name a version, or hold the key in a header of theirs."""
    anthropic = "anthropic-version" in request.headers or "x-api-key" in request.headers
    return _anthropic_model if anthropic else _model


def _anthropic_model(alias: AliasCard, name: str) -> dict[str, Any]:
    """https://docs.anthropic.com/en/api/models-list"""
    created = datetime.fromtimestamp(alias.created, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {"type": "model", "id": name, "display_name": name, "created_at": created}


def _model(alias: AliasCard, name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": alias.created, "owned_by": "gateway"}


def _json(value: dict[str, Any]) -> HttpResponse:
    return HttpResponse(msgspec.json.encode(value), content_type="application/json")
