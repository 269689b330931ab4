"""Any operation of the API, known in particular or not: its family, and the request as it may be sent on.

https://platform.openai.com/docs/api-reference has some 300 operations, and OpenAI's libraries call a hundred that it
does not have. A family is what a key's scope is made of; it goes by the first segments of the path.
"""

from collections.abc import Mapping
from typing import Any, ClassVar
from urllib.parse import quote, unquote_to_bytes

import msgspec
from django.http import HttpRequest
from msgspec.structs import replace

from gateway.errors import BadRequest, NotFound, NoWebSocket
from gateway.parsing import asks, heads, mentions, places
from gateway.parsing.asks import MAX_MODEL_CHARS, MOST, Ask, Form
from gateway.parsing.places import Place
from gateway.parsing.requests import APIRequest
from providers.allowances import OTHER

JSON = "application/json"
MAX_PATH = 2_000
# Methods that only look or take away: no provider charges for them, nor for what only keeps things.
FREE_METHODS = frozenset({"GET", "HEAD", "DELETE"})
FREE_FAMILIES = frozenset({"files", "uploads", "conversations", "organization"})
# https://www.rfc-editor.org/rfc/rfc3986#section-3.3, and the brackets that some clients leave as they are.
IN_PATH = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~!$&'()*+,;=:@%[]/")
IN_QUERY = frozenset(range(0x21, 0x7F)) - {ord("#")}

ONE_SEGMENT = (
    *("completions", "embeddings", "responses", "moderations", "images", "videos", "files", "uploads", "batches"),
    *("fine_tuning", "vector_stores", "conversations", "containers", "skills", "evals", "realtime", "assistants"),
    *("threads", "messages"),
)
FAMILIES = {
    **{name: name for name in ONE_SEGMENT},
    "chat/completions": "chat.completions",
    "audio/speech": "audio.speech",
    "audio/transcriptions": "audio.transcriptions",
    "audio/translations": "audio.translations",
    "messages/batches": "batches",
    "models": "fine_tuning",  # only to delete one: the list is made here
    "organization": "organization",
    "projects": "organization",
}

FORMS = {"responses": Form.RESPONSES, "messages": Form.MESSAGES}


class Loose(msgspec.Struct):
    """What is read of a body about which nothing else is known: a field of another type than ours is not ours."""

    model: object = None
    stream: object = None
    n: object = None
    user: object = None
    safety_identifier: object = None


_loose = msgspec.json.Decoder(Loose)


class Operation(msgspec.Struct, frozen=True):
    """The endpoint of everything that has none of its own."""

    takes_uploads: ClassVar[bool] = True

    def parse(self, request: HttpRequest, place: Place) -> Ask:
        """Raises BadRequest, and NotFound for a path that nobody serves."""
        name, method, scope = family(place.path), request.method or "GET", scope_of(request)
        if request.headers.get("upgrade", "").lower() == "websocket":
            raise NoWebSocket(place.path)
        if name == OTHER and not place.rooted:
            raise NotFound(f"Invalid URL ({method} {place.path})")
        path = below_v1(scope)
        ask = Ask(
            endpoint=name,
            path=path,
            model="",
            fields={},
            size=len(request.body),
            form=Form.MESSAGES if path.startswith("/messages/") else FORMS.get(name, Form.PLAIN),
            stream="stream=true" in scope.get("query_string", b"").decode("latin-1").split("&"),
            method=method,
            query=query(request, place),
            names_model=False,
            whole=b"",
            content_type="",
            ids=tuple(mentions.in_path(path)),
            is_fixed=False,
            is_billed=method not in FREE_METHODS and name not in FREE_FAMILIES,
        )
        return with_body(ask, request.body, request.headers.get("content-type", "")) if request.body else ask


def family(path: str) -> str:
    """The family of a path such as `/v1/fine_tuning/jobs`."""
    parts = path.removeprefix("/v1/").split("/", 2)
    return FAMILIES.get("/".join(parts[:2])) or FAMILIES.get(parts[0], OTHER)


def with_body(ask: Ask, body: bytes, content_type: str) -> Ask:
    """The ask with its body. A JSON object is read for its model and made anew, whatever the client calls it.

    Anything else comes here with a method that asks for no work, and goes on as it came.
    """
    if not heads.is_json(content_type.encode("latin-1", "replace")):
        if not content_type.isascii() or not content_type.isprintable():
            raise BadRequest("The header `content-type` holds characters that are not printable ASCII.")
        return replace(ask, whole=body, content_type=content_type)
    fields = asks.read_object(body)
    loose = _loose.decode(body)
    model = loose.model if isinstance(loose.model, str) else None
    if model is not None and len(model) > MAX_MODEL_CHARS:
        raise BadRequest(f"`model` has at most {MAX_MODEL_CHARS} characters.", param="model", code="invalid_value")
    return replace(
        ask,
        fields=fields,
        whole=None,
        content_type=JSON,
        model=model or "",
        names_model=model is not None,
        stream=loose.stream is True,
        choices=_count(loose.n),
        end_user=asks.end_user(*(name for name in (loose.safety_identifier, loose.user) if isinstance(name, str))),
        ids=(*ask.ids, *mentions.in_body(fields, body)),
    )


def _count(value: object) -> int:
    """How many answers are asked for; some servers take the number as a text."""
    try:
        count = int(value) if isinstance(value, int | float | str) else 1
    except (ValueError, OverflowError):
        return 1
    return min(max(count, 1), MOST)


def below_v1(scope: Mapping[str, Any]) -> str:
    """The operation's path as the client wrote it, escapes untouched, below `/v1`; raises BadRequest.

    It becomes a part of a provider's address: nothing in it may climb out of its place there.
    """
    raw = scope.get("raw_path")
    written = raw if isinstance(raw, bytes) else quote(str(scope["path"])).encode()
    path = places.read(written.decode("latin-1")).path.removeprefix("/v1")
    plain = unquote_to_bytes(path)
    climbs = any(part in (b".", b"..") for part in plain.replace(b"\\", b"/").split(b"/"))
    if climbs or len(path) > MAX_PATH or not IN_PATH.issuperset(path.encode("latin-1")) or min(plain, default=32) < 32:
        raise BadRequest("The path of this URL is not one that can be sent on.")
    return path


def scope_of(request: HttpRequest) -> Mapping[str, Any]:
    assert isinstance(request, APIRequest)
    return request.scope


def query(request: HttpRequest, place: Place) -> str:
    """The query as the client wrote it; of Azure's clients without the version, which is the provider's to say."""
    raw: bytes = scope_of(request).get("query_string") or b""
    if not IN_QUERY.issuperset(raw):
        raise BadRequest("The query of this URL holds characters that must be escaped.")
    text = raw.decode("ascii")
    if not place.is_azure:
        return text
    return "&".join(part for part in text.split("&") if not part.startswith("api-version="))
