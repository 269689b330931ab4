"""No way in: every route without a key and with one that may do nothing there, and keys that are statements."""

from collections.abc import Iterator
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.db import connection
from django.db.backends.utils import CursorWrapper

from gateway.api import api
from providers.models import ClientKey
from tests.gateway import golden
from tests.gateway.house import Door
from tests.scripted import ScriptedUpstream, json_answer

STATEMENTS = [
    "' OR '1'='1",
    "' OR 1=1 --",
    "'; DROP TABLE providers_clientkey; --",
    '" OR ""="',
    "') OR ('1'='1",
    "1; SELECT pg_sleep(5)",
    "' UNION SELECT * FROM providers_credential --",
    "admin'--",
    "%' OR '%'='",
    "\\'; SELECT 1; --",
    "sk-gw-' OR '1'='1-aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "${jndi:ldap://127.0.0.1/a}",
    "{{7*7}}",
    "$$; COPY (SELECT 1) TO PROGRAM 'id'; $$",
    "0x27204f5220313d31",
    "/**/OR/**/1=1",
]
ASKING = ("/chat/completions", "/completions", "/embeddings", "/messages", "/responses", "/agents", "/models/fast")
OPEN = "/keys/report"  # for whoever has found a key, and has none of his own: tests/gateway/test_end_users.py
NO_MODEL = dict.fromkeys(ASKING, 404)


def operations() -> Iterator[tuple[str, str]]:
    """(method, path) of every operation of the API, with something in the place of each variable."""
    for path, methods in api.get_openapi_schema()["paths"].items():
        for method in methods:
            yield (
                method.upper(),
                path.removeprefix("/v1").replace("{model_id}", "fast").replace("{operation}", "agents"),
            )


def test_s15_the_matrix_names_every_route() -> None:
    assert sorted(operations()) == [
        ("DELETE", "/agents"),
        ("DELETE", "/models/fast"),
        ("GET", "/agents"),
        ("GET", "/chat/completions"),
        ("GET", "/key"),
        ("GET", "/models"),
        ("GET", "/models/fast"),
        ("PATCH", "/agents"),
        ("POST", "/agents"),
        ("POST", "/chat/completions"),
        ("POST", "/client_tokens"),
        ("POST", "/completions"),
        ("POST", "/embeddings"),
        ("POST", "/keys/report"),
        ("POST", "/messages"),
        ("POST", "/responses"),
        ("PUT", "/agents"),
    ]


async def asked(door: Door, key: str, **options: Any) -> dict[tuple[str, str], int]:
    """The status of every route."""
    headers = {"authorization": f"Bearer {key}"} if key else {"authorization": ""}
    found = {}
    async with door.http() as http:
        for method, path in operations():
            if path == OPEN:
                continue
            body = {"model": "fast", "messages": [], "prompt": "a", "input": "a"} if method == "POST" else None
            body = {"end_user": "anna"} if path == "/client_tokens" else body
            found[method, path] = (await http.request(method, path, headers=headers, json=body)).status_code
    return found


async def test_s15_every_route_is_closed_without_a_key_and_with_a_dead_one(
    door: Door, scripted: ScriptedUpstream
) -> None:
    assert set((await asked(door, "")).values()) == {401}
    assert set((await asked(door, "sk-unknown-0123456789")).values()) == {401}
    _, dead = await sync_to_async(lambda: ClientKey.objects.mint("dead", enabled=False))()
    assert set((await asked(door, dead)).values()) == {401}
    assert scripted.requests == []


@pytest.mark.parametrize(
    ("allowed", "refused"),
    [
        ({"aliases": []}, {**NO_MODEL, "/agents": 403}),
        ({"aliases": ["other"]}, {**NO_MODEL, "/agents": 403}),
        ({"endpoints": ["embeddings"]}, {path: 403 for path in ASKING if path != "/embeddings"}),
        ({"endpoints": ["chat.completions"]}, {path: 403 for path in ASKING if path != "/chat/completions"}),
    ],
)
async def test_s15_a_key_with_another_scope_is_refused(
    door: Door, scripted: ScriptedUpstream, allowed: dict[str, Any], refused: dict[str, int]
) -> None:
    scripted.default = json_answer(golden.COMPLETION)
    _, narrow = await sync_to_async(lambda: ClientKey.objects.mint("narrow", **allowed))()
    found = {path: status for (_, path), status in (await asked(door, narrow)).items()}
    assert {path: found[path] for path in refused} == refused
    assert {status for path, status in found.items() if path not in refused} <= {200, 502}


async def test_s10_a_statement_in_the_keys_place_is_one_wrong_key_like_any_other(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[str] = []
    execute = CursorWrapper.execute

    def noted(self: Any, sql: str, params: Any = None) -> Any:
        ran.append(str(sql))
        return execute(self, sql, params)

    monkeypatch.setattr(CursorWrapper, "execute", noted)
    shapes = set()
    async with door.http() as http:
        for text in STATEMENTS:
            for headers in ({"authorization": f"Bearer {text}"}, {"api-key": text}, {"x-api-key": text}):
                answer = await http.post("/chat/completions", json={}, headers={"authorization": "", **headers})
                error = answer.json()["error"]
                shapes.add((answer.status_code, error["type"], error["param"]))
                assert text not in answer.text
    assert shapes == {(401, "invalid_request_error", None)}
    assert not [sql for sql in ran if any(text in sql for text in STATEMENTS)]


@pytest.mark.parametrize("field", ["model", "user", "safety_identifier", "metadata"])
async def test_s10_a_statement_in_a_field_is_text(door: Door, scripted: ScriptedUpstream, field: str) -> None:
    scripted.default = json_answer(golden.COMPLETION)
    async with door.http() as http:
        for text in STATEMENTS:
            body: dict[str, Any] = {
                "model": "fast",
                "messages": [],
                field: {"a": text} if field == "metadata" else text,
            }
            answer = await http.post("/chat/completions", json=body)
            assert answer.status_code == (404 if field == "model" else 200), text
    if field == "model":
        return
    assert len(await door.rows(len(STATEMENTS))) == len(STATEMENTS)
    assert await sync_to_async(lambda: ClientKey.objects.count())() == 1
    assert await sync_to_async(lambda: connection.introspection.table_names())()
