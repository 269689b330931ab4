"""Calls from web pages: publishable keys, preflights, and what a page may read (https://fetch.spec.whatwg.org/)."""

from typing import Any

import httpx
import pytest
from asgiref.sync import sync_to_async
from django.core.exceptions import ValidationError
from django.core.management import call_command

from providers.managers import KeyRefused
from providers.models import ClientKey
from tests.gateway import golden
from tests.gateway.house import Door, client_key
from tests.scripted import ScriptedUpstream, json_answer

APP, OTHER = "https://app.example.com", "https://evil.example"
BODY = {"model": "fast", "messages": [{"role": "user", "content": "hi"}]}
BOUNDS: dict[str, Any] = {
    "kind": "publishable",
    "aliases": ["fast"],
    "origins": [APP, "https://*.preview.example.com"],
    "endpoints": ["chat.completions"],
    "max_tokens": 50,
    "address_rpm": 600,
}
CHAT = "/chat/completions"


async def made(**fields: Any) -> str:
    return (await sync_to_async(lambda: client_key("page", **{**BOUNDS, **fields}))())[1]


async def looked(door: Door) -> None:
    """What the operator has changed is known, as it is a second later."""
    await door.engine._refresh()


async def post(door: Door, token: str, origin: str | None = APP, **options: Any) -> httpx.Response:
    headers = {"authorization": f"Bearer {token}", **({"origin": origin} if origin else {})}
    headers |= options.pop("headers", {})
    async with door.http() as http:
        return await http.post(options.pop("path", CHAT), headers=headers, json=options.pop("json", BODY), **options)


async def preflight(door: Door, origin: str, asked: str = "authorization,content-type") -> httpx.Response:
    headers = {
        "authorization": "",
        "origin": origin,
        "access-control-request-method": "POST",
        "access-control-request-headers": asked,
    }
    async with door.http() as http:
        return await http.options(CHAT, headers=headers)


def cors(answer: httpx.Response) -> list[str]:
    return sorted(name for name in answer.headers if name.startswith("access-control-"))


async def test_case_48_a_preflight_is_answered_for_an_allowed_origin_only(door: Door) -> None:
    await made()
    await looked(door)
    answer = await preflight(
        door, APP, "authorization,content-type,x-stainless-lang,openai-beta,cookie,x-gateway-end-user"
    )
    assert (answer.status_code, answer.content) == (204, b"")
    assert {name: answer.headers[name] for name in cors(answer)} == {
        "access-control-allow-origin": APP,
        "access-control-allow-methods": "GET, POST, DELETE",
        "access-control-allow-headers": "authorization, content-type, x-stainless-lang, openai-beta",
        "access-control-max-age": "7200",
    }
    assert answer.headers["vary"] == "Origin, Access-Control-Request-Headers"
    assert answer.headers["x-request-id"].startswith("req_")
    assert (await preflight(door, "https://pr-7.preview.example.com")).status_code == 204
    for origin in (OTHER, "null", "https://preview.example.com"):
        foreign = await preflight(door, origin)
        assert (foreign.status_code, foreign.json()["error"]["code"], cors(foreign)) == (403, "origin_not_allowed", [])


async def test_the_origin_of_a_revoked_key_is_let_in_no_more(door: Door) -> None:
    token = await made()
    await looked(door)
    assert (await preflight(door, APP)).status_code == 204
    await sync_to_async(lambda: ClientKey.objects.filter(kind="publishable").update(enabled=False))()
    await looked(door)
    assert (await preflight(door, APP)).status_code == 403
    assert (await post(door, token)).status_code == 401


async def test_a_page_reads_the_answer_and_the_headers_that_its_library_needs(
    door: Door, scripted: ScriptedUpstream
) -> None:
    scripted.default = json_answer(golden.COMPLETION)
    token = await made(rpm=100)
    answer = await post(door, token)
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == APP
    assert answer.headers["vary"] == "Origin"
    shown = answer.headers["access-control-expose-headers"].split(", ")
    assert {"x-request-id", "x-ratelimit-remaining-requests", "x-gateway-provider", "openai-version"} <= set(shown)
    assert "access-control-allow-credentials" not in answer.headers
    assert scripted.requests[-1].json()["max_completion_tokens"] == 50


@pytest.mark.parametrize(
    ("fields", "options", "status", "code"),
    [
        ({}, {"json": {**BODY, "model": "lab/x"}}, 404, "model_not_found"),
        ({}, {"json": {**BODY, "max_tokens": 51}}, 400, "invalid_value"),
        ({}, {"path": "/embeddings", "json": {"model": "fast", "input": "a"}}, 403, "key_scope"),
        ({}, {"path": "/nothing"}, 403, "key_scope"),
        ({}, {"path": "/files"}, 403, "key_scope"),
        ({}, {"path": "/chat/completions/cmpl_1"}, 403, "key_scope"),
        ({"address_rpm": 1}, {}, 429, "rate_limit_exceeded"),
    ],
)
async def test_a_page_can_read_why_it_is_refused(
    door: Door, scripted: ScriptedUpstream, fields: dict[str, Any], options: dict[str, Any], status: int, code: str
) -> None:
    scripted.default = json_answer(golden.COMPLETION)
    token = await made(**fields)
    if status == 429:
        await post(door, token)
    answer = await post(door, token, **options)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert answer.headers["access-control-allow-origin"] == APP
    if status == 429:
        assert {"retry-after", "retry-after-ms"} <= set(answer.headers["access-control-expose-headers"].split(", "))


async def test_a_wrong_publishable_key_is_a_401_that_the_page_can_read(door: Door) -> None:
    await made()
    await looked(door)
    for token in ("pk-gw-junk", "pk-gw-" + "a" * 59):
        answer = await post(door, token)
        assert answer.status_code == 401
        assert answer.headers["access-control-allow-origin"] == APP
        assert cors(await post(door, token, OTHER)) == []


@pytest.mark.parametrize("origin", [OTHER, "null", "https://app.example.com.evil.example", APP.upper(), None])
async def test_a_publishable_key_works_in_its_own_pages_only(
    door: Door, scripted: ScriptedUpstream, origin: str | None
) -> None:
    answer = await post(door, await made(), origin)
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "origin_not_allowed")
    assert cors(answer) == []
    assert scripted.requests == []


async def test_a_page_reads_nothing_of_an_answer_to_a_secret_key(door: Door, scripted: ScriptedUpstream) -> None:
    scripted.default = json_answer(golden.COMPLETION)
    await made()
    await looked(door)
    assert (await post(door, door.key)).status_code == 200
    for token in (door.key, "sk-gw-junk", "sk-from-elsewhere-0123456789"):
        answer = await post(door, token)
        assert cors(answer) == [], token


async def test_a_script_with_a_stolen_key_gets_what_its_address_may_have(
    door: Door, scripted: ScriptedUpstream
) -> None:
    """Whatever origin it claims and whatever end users it invents."""
    scripted.default = json_answer(golden.COMPLETION)
    token = await made(address_rpm=10, end_user_rpm=60)
    found = [(await post(door, token, json={**BODY, "user": f"u{n}"})).status_code for n in range(12)]
    assert found == [200] + [429] * 11  # the burst is a tenth of a minute's, the next one comes after six seconds


@pytest.mark.parametrize(
    ("lacking", "field"),
    [
        ({"origins": []}, "origins"),
        ({"aliases": ["*"]}, "aliases"),
        ({"aliases": ["fast", "*"]}, "aliases"),
        ({"aliases": []}, "aliases"),
        ({"endpoints": []}, "endpoints"),
        ({"endpoints": ["chat.completions", "other"]}, "endpoints"),
        ({"max_tokens": None}, "max_tokens"),
        ({"address_rpm": 0}, "address_rpm"),
    ],
)
@pytest.mark.django_db
def test_a_publishable_key_without_a_bound_is_refused(lacking: dict[str, Any], field: str) -> None:
    with pytest.raises(KeyRefused, match=f"{field} must"):
        ClientKey.objects.mint("page", **{**BOUNDS, **lacking})
    row, _ = ClientKey.objects.mint("page", **BOUNDS)
    for name, value in lacking.items():
        setattr(row, name, value)
    with pytest.raises(ValidationError) as refused:
        row.clean()
    assert set(refused.value.message_dict) == {field}


@pytest.mark.django_db
def test_the_command_makes_a_publishable_key(capsys: pytest.CaptureFixture[str]) -> None:
    call_command(
        *("create_client_key", "page", "--kind", "publishable", "--alias", "fast", "--origin", APP),
        *("--endpoint", "chat.completions", "--max-tokens", "50", "--address-rpm", "20"),
    )
    token = capsys.readouterr().out.split()[0]
    row = ClientKey.objects.get()
    assert token.startswith(f"pk-gw-{row.id}-")
    assert (row.kind, row.origins, row.address_rpm) == ("publishable", [APP], 20)


async def test_a_row_without_bounds_that_passed_by_the_forms_opens_nothing(door: Door) -> None:
    token = await made()
    await sync_to_async(lambda: ClientKey.objects.filter(kind="publishable").update(origins=[], aliases=["*"]))()
    assert (await post(door, token)).status_code == 401
