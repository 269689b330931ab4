"""Operations that the gateway does not know in particular: passed on as they are, under the rules of all the others."""

from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path

import httpx
import pytest
from asgiref.sync import sync_to_async

from gateway.errors import BadRequest
from gateway.parsing import operations, places
from ledger.models import PriceRow
from tests.gateway import house
from tests.gateway.house import TOKEN, Door, client_key
from tests.scripted import SSE_HEADERS, Chunk, ScriptedUpstream, head, json_answer


@pytest.fixture
async def two(transactional_db: None, tmp_path: Path, scripted: ScriptedUpstream) -> AsyncIterator[house.Door]:
    """Providers `lab` and `openai-eu`, told apart by their paths; a key that may use both, `lab` being its own."""

    def configure() -> str:
        house.alias("fast", (house.provider("lab", scripted.url + "/lab/v1"), "gpt-4o"))
        house.alias("eu/*", (house.provider("openai-eu", scripted.url + "/eu/v1"), ""))
        house.alias("hidden", (house.provider("secret", scripted.url + "/secret/v1"), "m"))
        return house.client_key(aliases=["fast", "eu/*"])[1]

    async with house.open_house(configure, tmp_path) as opened:
        yield opened


async def test_case_43_the_catch_all_passes_on_method_query_body_and_status(
    door: Door, scripted: ScriptedUpstream
) -> None:
    scripted.default = json_answer({"object": "decision", "id": "d_1"}, status=201)
    async with door.http() as http:
        answers = [
            await http.request(method, f"{door.url}/decisions/d%2F1:x?metadata%5Ba%5D=b&x=[1]&after=%C3%A4", json=body)
            for method, body in (("POST", {"questions": [{"b": 1e-7}]}), ("PATCH", {}), ("PUT", {"a": "ü"}))
        ]
        answers += [await http.request(method, "/agents?limit=2") for method in ("GET", "DELETE")]
    assert [answer.status_code for answer in answers] == [201] * 5
    assert {answer.text for answer in answers} == {'{"object":"decision","id":"d_1"}'}
    target = "/v1/decisions/d%2F1:x?metadata%5Ba%5D=b&x=[1]&after=%C3%A4"
    assert [(request.method, request.target) for request in scripted.requests] == [
        ("POST", target), ("PATCH", target), ("PUT", target), ("GET", "/v1/agents?limit=2"),
        ("DELETE", "/v1/agents?limit=2"),
    ]  # fmt: skip
    assert [request.body for request in scripted.requests[:2]] == [b'{"questions":[{"b":1e-07}]}', b"{}"]
    assert [request.header("content-type") for request in scripted.requests] == ["application/json"] * 3 + [None] * 2
    assert all(request.header("authorization") == f"Bearer {TOKEN}" for request in scripted.requests)
    rows = await door.rows(5)
    assert {(row.endpoint, row.outcome, row.status, row.provider, row.usage_source) for row in rows} == {
        ("other", "ok", 201, "lab", "none")
    }
    assert [row.cost for row in rows] == [None, None, None, Decimal(0), Decimal(0)]


async def test_case_43_what_the_upstream_does_not_know_is_its_own_404_as_json(
    door: Door, scripted: ScriptedUpstream
) -> None:
    scripted.default = [head(404, {"content-type": "text/html", "content-length": "15"}) + b"<html>no</html>"]
    async with door.http() as http:
        answer = await http.get("/agents")
        page = await http.get(door.url.removesuffix("/v1") + "/agents")
    assert (answer.status_code, answer.headers["content-type"]) == (404, "application/json")
    assert "<" not in answer.json()["error"]["message"]
    assert (page.status_code, page.json()["error"]["code"]) == (404, "unknown_url")
    assert len(scripted.requests) == 1


async def test_the_head_of_another_operation_is_built_and_never_copied(door: Door, scripted: ScriptedUpstream) -> None:
    scripted.default = json_answer({"object": "list", "data": []}, headers={"set-cookie": "a=1", "server": "x"})
    sent = {
        "openai-beta": "assistants=v2", "anthropic-beta": "b1", "anthropic-version": "2023-06-01",
        "idempotency-key": "k1", "cookie": "s=1", "openai-organization": "org", "x-forwarded-for": "1.2.3.4",
        "x-stainless-lang": "js", "accept": "application/json", "x-gateway-tag": "t",
    }  # fmt: skip
    async with door.http() as http:
        answer = await http.get("/files", headers=sent)
    headers = {name.lower(): value for name, value in scripted.requests[0].headers}
    assert set(headers) == {
        "host", "accept-encoding", "user-agent", "authorization", "openai-beta", "anthropic-beta",
        "anthropic-version", "idempotency-key",
    }  # fmt: skip
    assert headers["openai-beta"] == "assistants=v2"
    assert "set-cookie" not in answer.headers
    assert answer.headers["x-gateway-provider"] == "lab"


async def test_one_idempotency_key_of_two_clients_is_two_there(door: Door, scripted: ScriptedUpstream) -> None:
    scripted.default = json_answer({"id": "asst_1", "object": "assistant"})
    other = (await sync_to_async(house.client_key)("other"))[1]
    async with door.http() as http:
        for token in (door.key, other, door.key):
            sent = {"authorization": f"Bearer {token}", "idempotency-key": "k1"}
            assert (await http.get("/assistants", headers=sent)).status_code == 200
    keys = [dict(request.headers)["idempotency-key"] for request in scripted.requests]
    assert keys[0] == keys[2] != keys[1]
    assert "k1" not in keys


async def test_a_body_that_names_a_model_takes_the_way_of_the_model(two: Door, scripted: ScriptedUpstream) -> None:
    scripted.default = json_answer({"id": "asst_1", "object": "assistant"})
    async with two.http() as http:
        known = await http.post("/assistants", json={"name": "a", "model": "eu/gpt-5"})
        unknown = await http.post("/assistants", json={"model": "nobody"})
    assert known.status_code == 200
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "model_not_found")
    [request] = scripted.requests
    assert (request.target, request.body) == ("/eu/v1/assistants", b'{"name":"a","model":"gpt-5"}')
    [row] = await two.rows(1)
    assert (row.endpoint, row.alias, row.model, row.provider) == ("assistants", "eu/*", "eu/gpt-5", "openai-eu")


async def test_case_41_a_path_prefix_and_a_header_both_pick_the_provider(two: Door, scripted: ScriptedUpstream) -> None:
    scripted.default = json_answer({"object": "list", "data": []})
    root = two.url.removesuffix("/v1")
    async with two.http() as http:
        answers = [
            await http.get("/files"),
            await http.get(root + "/openai-eu/v1/files"),
            await http.get("/files", headers={"x-gateway-provider": "openai-eu"}),
            await http.get(root + "/lab/v1/files", headers={"x-gateway-provider": "openai-eu"}),
        ]
        unknown = await http.get(root + "/nobody/v1/files")
        hidden = await http.get(root + "/secret/v1/files")
        by_header = await http.get("/files", headers={"x-gateway-provider": "secret"})
    assert [answer.headers["x-gateway-provider"] for answer in answers] == ["lab", "openai-eu", "openai-eu", "lab"]
    assert [request.target for request in scripted.requests] == [
        "/lab/v1/files", "/eu/v1/files", "/eu/v1/files", "/lab/v1/files",
    ]  # fmt: skip
    for refused, name in ((unknown, "nobody"), (hidden, "secret"), (by_header, "secret")):
        assert (refused.status_code, refused.json()["error"]["code"]) == (404, "unknown_provider")
        said = "The provider `{}` does not exist or you do not have access to it."
        assert refused.json()["error"]["message"] == said.format(name)


async def test_a_key_says_where_calls_go_that_say_nothing_themselves(two: Door, scripted: ScriptedUpstream) -> None:
    scripted.default = json_answer({"object": "list", "data": []})
    async with two.http() as http:
        for name, status in (("openai-eu", 200), ("lab", 200), ("secret", 404)):
            token = (await sync_to_async(client_key)(name, aliases=["fast", "eu/*"], default_provider=name))[1]
            answer = await http.get("/files", headers={"authorization": f"Bearer {token}"})
            assert answer.status_code == status
    assert [request.target for request in scripted.requests] == ["/eu/v1/files", "/lab/v1/files"]


async def test_a_named_provider_narrows_the_routes_of_a_model(two: Door, scripted: ScriptedUpstream) -> None:
    scripted.default = json_answer({"id": "c", "object": "chat.completion", "choices": []})
    async with two.http() as http:
        here = await http.post("/chat/completions", json={"model": "fast"}, headers={"x-gateway-provider": "lab"})
        gone = await http.post("/chat/completions", json={"model": "fast"}, headers={"x-gateway-provider": "openai-eu"})
    assert here.status_code == 200
    assert (gone.status_code, gone.json()["error"]["code"]) == (404, "model_not_found")


SCOPES: list[tuple[dict[str, object], str, int]] = [
    ({}, "/files", 200),
    ({}, "/agents", 200),
    ({}, "/organization/users", 403),
    ({"aliases": ["fast"]}, "/batches", 403),
    ({"aliases": ["fast"]}, "/realtime/client_secrets", 403),
    ({"aliases": ["fast"]}, "/files", 200),
    ({"aliases": ["fast"], "endpoints": ["batches"]}, "/batches", 200),
    ({}, "/projects/p/users", 403),
    ({"endpoints": ["files"]}, "/files/f1/content", 200),
    ({"endpoints": ["files"]}, "/batches", 403),
    ({"endpoints": ["files"]}, "/agents", 403),
    ({"endpoints": ["other"]}, "/agents", 200),
    ({"endpoints": ["other"]}, "/chat/completions", 403),
    ({"endpoints": ["organization"]}, "/organization/users", 200),
    ({"endpoints": ["fine_tuning"]}, "/fine_tuning/jobs/j/events", 200),
]


async def test_a_key_reaches_the_families_that_it_names(door: Door, scripted: ScriptedUpstream) -> None:
    scripted.default = json_answer({"object": "list", "data": []})
    async with door.http() as http:
        for given, path, status in SCOPES:
            token = (await sync_to_async(client_key)("narrow", **given))[1]
            answer = await http.get(path, headers={"authorization": f"Bearer {token}"})
            code = answer.json()["error"]["code"] if status == 403 else None
            assert (answer.status_code, code) == (status, "key_scope" if code else None), (given, path)


async def test_a_key_without_any_provider_finds_nothing(door: Door, scripted: ScriptedUpstream) -> None:
    token = (await sync_to_async(client_key)("none", aliases=[]))[1]
    async with door.http() as http:
        answer = await http.get("/files", headers={"authorization": f"Bearer {token}"})
    assert (answer.status_code, answer.json()["error"]["message"]) == (404, "Invalid URL (GET /v1/files)")
    assert scripted.requests == []


async def test_a_price_of_a_request_is_charged_for_work_and_not_for_looking(
    door: Door, scripted: ScriptedUpstream
) -> None:
    scripted.default = json_answer({"id": "vs_1", "object": "vector_store"})
    await sync_to_async(PriceRow.objects.create)(provider="lab", model="*", request=Decimal("0.02"))
    await door.engine._price()
    async with door.http() as http:
        for method, path in (("POST", "/vector_stores"), ("GET", "/vector_stores/vs_1"), ("POST", "/files")):
            assert (await http.request(method, path, json={"n": 1} if method == "POST" else None)).status_code == 200
    rows = await door.rows(3)
    assert [(row.endpoint, row.cost, row.usage_source) for row in rows] == [
        ("vector_stores", Decimal("0.02"), "none"),
        ("vector_stores", Decimal(0), "none"),
        ("files", Decimal(0), "none"),
    ]  # fmt: skip


async def test_an_unknown_price_stops_work_and_not_looking(door: Door, scripted: ScriptedUpstream) -> None:
    scripted.default = json_answer({"object": "list", "data": []})
    token = (await sync_to_async(client_key)("careful", unknown_price="block"))[1]
    async with door.http() as http:
        http.headers["authorization"] = f"Bearer {token}"
        work, look = await http.post("/batches", json={}), await http.get("/batches")
    assert (work.status_code, work.json()["error"]["code"]) == (403, "price_unknown")
    assert look.status_code == 200


async def test_usage_in_a_plain_answer_is_taken_down(door: Door, scripted: ScriptedUpstream) -> None:
    usage = {"input_tokens": 50, "output_tokens": 60, "total_tokens": 110}
    scripted.default = json_answer({"created": 1, "data": [{"b64_json": "AA"}], "usage": usage})
    async with door.http() as http:
        answer = await http.post("/images/generations", json={"model": "lab/gpt-image-1", "prompt": "a cat"})
    assert answer.status_code == 200
    [row] = await door.rows(1)
    assert (row.endpoint, row.upstream_model, row.tokens_in, row.tokens_out) == ("images", "gpt-image-1", 50, 60)


async def test_a_plain_stream_is_passed_byte_for_byte_with_its_names(door: Door, scripted: ScriptedUpstream) -> None:
    parts = [
        b'event: image_generation.partial_image\ndata: {"type":"image_generation.partial_image","b64_json":"AAAA"}\n\n',
        b'event: image_generation.completed\ndata: {"b64_json":"A","usage":{"input_tokens":50,"output_tokens":50}}\n\n',
    ]
    whole = b"".join(parts)
    scripted.default = [
        head(200, {**SSE_HEADERS, "transfer-encoding": "chunked"}), Chunk(whole[:90]), Chunk(whole[90:]), Chunk()
    ]  # fmt: skip
    async with door.http() as http:
        answer = await http.post("/images/generations", json={"model": "fast", "prompt": "a", "stream": True})
    assert answer.content == whole
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    [row] = await door.rows(1)
    assert (row.stream, row.tokens_in, row.tokens_out, row.usage_source) == (True, 50, 50, "provider")


async def test_a_body_that_is_no_json_goes_on_as_it_came(door: Door, scripted: ScriptedUpstream) -> None:
    scripted.default = [
        head(201, {"content-type": "application/sdp", "content-length": "4", "content-disposition": "inline"})
        + b"v=0\n"
    ]
    async with door.http() as http:
        answer = await http.post("/realtime/calls", content=b"v=0\r\n", headers={"content-type": "application/sdp"})
    assert (answer.status_code, answer.headers["content-type"], answer.content) == (201, "application/sdp", b"v=0\n")
    assert answer.headers["content-disposition"] == "inline"
    [request] = scripted.requests
    assert (request.body, request.header("content-type")) == (b"v=0\r\n", "application/sdp")


async def test_an_answer_without_a_body_stays_one(door: Door, scripted: ScriptedUpstream) -> None:
    scripted.default = [head(204)]
    async with door.http() as http:
        answer = await http.delete("/containers/cntr_1")
    assert (answer.status_code, answer.content) == (204, b"")


CHECKED = [
    ("application/json", b'{"error":{"message":"no credit","code":402}}', 402),
    ("application/json", b'{"id":"ftjob-1","object":"fine_tuning.job","error":{"message":"bad file"}}', 200),
    ("application/json", b'{"half":', 502),
    ("application/json", b'[{"a":1}]', 200),
    ("text/html", b"<html>welcome</html>", 502),
    ("text/plain", b"WEBVTT", 200),
]


async def test_an_answer_is_checked_for_what_no_client_could_read(door: Door, scripted: ScriptedUpstream) -> None:
    async with door.http() as http:
        for kind, body, status in CHECKED:
            scripted.default = [head(200, {"content-type": kind, "content-length": str(len(body))}) + body]
            answer = await http.get("/fine_tuning/jobs/ftjob-1")
            assert answer.status_code == status, body
            assert answer.content == body if status == 200 else "error" in answer.json()


@pytest.mark.parametrize(
    "path",
    ["/files/../models", "/files/%2e%2e/x", "/files/a%2F..%2F..%2Fadmin", "/files/a%5C..%5Cb", "/files/%00", "/f/%0a"],
)
def test_a_path_cannot_climb_out_of_the_providers_address(path: str) -> None:
    with pytest.raises(BadRequest):
        operations.below_v1({"raw_path": b"/v1" + path.encode(), "path": "/v1/x"})


async def test_a_path_that_climbs_is_refused_and_nothing_is_sent(door: Door, scripted: ScriptedUpstream) -> None:
    async with door.http() as http:
        answer = await http.get(httpx.URL(door.url).copy_with(raw_path=b"/v1/files/a%2F..%2F..%2Fadmin"))
    assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_request_error")
    assert scripted.requests == []


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ("/v1/files", places.Place("/v1/files")),
        ("/files/", places.Place("/v1/files", rooted=False)),
        ("//v1//files", places.Place("/v1/files")),
        ("/v1/v1/files", places.Place("/v1/files")),
        ("/mistral/v1/files", places.Place("/v1/files", "mistral")),
        ("/openai/v1/files", places.Place("/v1/files", "openai")),
        ("/openai/files", places.Place("/v1/files", "openai")),
        ("/openai/deployments/gpt-4o/chat/completions", places.Place("/v1/chat/completions", "openai", "gpt-4o")),
        ("/", places.Place("/v1", rooted=False)),
        ("/v1", places.Place("/v1")),
    ],
)
def test_the_place_of_a_path(path: str, place: places.Place) -> None:
    assert places.read(path) == place
