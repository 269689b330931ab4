"""Ids go back to the provider that gave them, from any process and after a restart, and only for their key."""

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from asgiref.sync import sync_to_async
from django.db import connection
from django.utils import timezone

from gateway.errors import BadRequest
from gateway.models import KnownId
from gateway.parsing import mentions
from gateway.routing.stickies import KEPT_FOR, Stickies, Sticky
from providers.models import Credential
from tests.gateway import golden, house
from tests.gateway.house import TOKEN, Door, client_key
from tests.gateway.test_responses import EVENTS, RESPONSE, stream
from tests.scripted import ScriptedUpstream, json_answer

FILE = {
    "id": "file-abc123", "object": "file", "bytes": 120000, "created_at": 1677610602, "filename": "mydata.jsonl",
    "purpose": "batch", "status": "processed",
}  # fmt: skip
BATCH = {
    "id": "batch_abc", "object": "batch", "endpoint": "/v1/chat/completions", "input_file_id": "file-abc123",
    "completion_window": "24h", "status": "completed", "created_at": 1711471533, "output_file_id": "file-out",
    "error_file_id": None,
}  # fmt: skip


def configure(url: str) -> None:
    """`lab` comes first and is the keys' own; `eu` is where the tests' things are."""
    lab, eu = house.provider("lab", url + "/lab/v1"), house.provider("eu", url + "/eu/v1")
    house.alias("fast", (lab, "gpt-4o"))
    house.alias("eu/*", (eu, ""))
    house.alias("both", (lab, "gpt-4o"), (eu, "gpt-4o-eu"))


@pytest.fixture
async def two(transactional_db: None, tmp_path: Path, scripted: ScriptedUpstream) -> AsyncIterator[Door]:
    def start() -> str:
        configure(scripted.url)
        return client_key()[1]

    async with house.open_house(start, tmp_path) as opened:
        yield opened


def targets(scripted: ScriptedUpstream) -> list[str]:
    return [request.target for request in scripted.requests]


async def created(door: Door, scripted: ScriptedUpstream, path: str, answer: Any, **body: Any) -> None:
    """Something made at `eu`, which the client names once and never again."""
    scripted.enqueue(json_answer(answer))
    async with door.http() as http:
        made = await http.post(path, json=body, headers={"x-gateway-provider": "eu"})
    assert made.status_code == 200, made.text
    scripted.requests.clear()


async def test_case_39_files_batches_and_responses_go_where_they_were_made_from_another_process_too(
    two: Door, scripted: ScriptedUpstream, tmp_path: Path
) -> None:
    async with two.client(default_headers={"x-gateway-provider": "eu"}) as client:
        scripted.enqueue(json_answer(FILE), json_answer(RESPONSE))
        await client.files.create(file=b"{}", purpose="batch")
        await client.responses.create(model="eu/gpt-5", input="Tell")
    scripted.requests.clear()

    async with house.open_house(lambda: two.key, tmp_path / "other") as other, other.client() as client:
        scripted.enqueue(json_answer(FILE), json_answer(BATCH), json_answer(RESPONSE), json_answer(RESPONSE))
        await client.files.content("file-abc123")
        await client.batches.create(
            completion_window="24h", endpoint="/v1/chat/completions", input_file_id="file-abc123"
        )
        await client.responses.retrieve(RESPONSE["id"])
        await client.responses.create(model="both", input="More", previous_response_id=RESPONSE["id"])
        scripted.enqueue(json_answer(BATCH), json_answer(FILE))
        await client.batches.retrieve("batch_abc")
        await client.files.content("file-out")
    assert targets(scripted) == [
        "/eu/v1/files/file-abc123/content", "/eu/v1/batches", f"/eu/v1/responses/{RESPONSE['id']}",
        "/eu/v1/responses", "/eu/v1/batches/batch_abc", "/eu/v1/files/file-out/content",
    ]  # fmt: skip
    assert scripted.requests[3].json()["model"] == "gpt-4o-eu"


async def test_case_42_a_response_is_found_after_a_restart_and_an_unknown_one_is_the_default_providers_own_404(
    transactional_db: None, tmp_path: Path, scripted: ScriptedUpstream
) -> None:
    def first() -> str:
        configure(scripted.url)
        return client_key()[1]

    async with house.open_house(first, tmp_path) as door:
        scripted.enqueue(stream(*EVENTS))
        async with door.http() as http:
            answer = await http.post("/responses", json={"model": "eu/gpt-5", "input": "Tell", "stream": True})
        assert answer.content == b"".join(EVENTS)
        key = door.key
    scripted.requests.clear()
    async with house.open_house(lambda: key, tmp_path) as door, door.client(max_retries=0) as client:
        scripted.enqueue(json_answer(RESPONSE))
        assert (await client.responses.retrieve(RESPONSE["id"])).id == RESPONSE["id"]
        said = {"message": "Response with id 'resp_nobody' not found.", "type": "invalid_request_error"}
        scripted.enqueue(json_answer({"error": {**said, "param": None, "code": None}}, status=404))
        with pytest.raises(openai.NotFoundError, match="Response with id 'resp_nobody' not found"):
            await client.responses.retrieve("resp_nobody")
    assert targets(scripted) == [f"/eu/v1/responses/{RESPONSE['id']}", "/lab/v1/responses/resp_nobody"]


async def test_case_44_moderations_without_a_model_go_to_the_keys_own_provider(
    two: Door, scripted: ScriptedUpstream
) -> None:
    scripted.default = json_answer({"id": "modr-1", "model": "omni-moderation-latest", "results": []})
    async with two.client() as client:
        answer = await client.moderations.create(input="I want to help them.")
    assert answer.id == "modr-1"
    assert targets(scripted) == ["/lab/v1/moderations"]
    assert scripted.requests[0].json() == {"input": "I want to help them."}
    assert await sync_to_async(KnownId.objects.count)() == 0


async def test_s25_another_keys_ids_are_not_there(two: Door, scripted: ScriptedUpstream) -> None:
    await created(two, scripted, "/files", FILE)
    await created(two, scripted, "/responses", RESPONSE, model="eu/gpt-5", input="Tell")
    _, stranger = await sync_to_async(client_key)("stranger")
    file, response = FILE["id"], RESPONSE["id"]
    hidden = b'{"model":"eu/m","messages":[{"content":[{"type":"file","file":{"f\\u0069le_id":"file-abc123"}}]}]}'
    chat = {"model": "eu/m", "messages": [{"role": "user", "content": [{"type": "file", "file": {"file_id": file}}]}]}
    tries: list[tuple[str, str, Any]] = [
        ("GET", f"/files/{file}", None),
        ("GET", f"/files/{str(file).replace('-', '%2D')}/content", None),
        ("DELETE", f"/files/{file}", None),
        ("POST", "/batches", {"input_file_id": file}),
        ("POST", "/fine_tuning/jobs", {"model": "eu/m", "training_file": file}),
        ("POST", "/vector_stores", {"file_ids": ["file-other", file]}),
        ("POST", "/responses", {"model": "eu/m", "input": "x", "previous_response_id": response}),
        ("POST", "/responses", {"model": "eu/m", "input": [{"content": [{"type": "input_file", "file_id": file}]}]}),
        ("POST", "/responses", {"model": "eu/m", "tools": [{"container": {"file_ids": [file]}}]}),
        ("POST", f"/responses/{response}/cancel", None),
        ("POST", "/threads/runs", {"thread": {"messages": [{"attachments": [{"file_id": file}]}]}}),
        ("POST", "/chat/completions", chat),
        ("POST", "/chat/completions", hidden),
    ]  # fmt: skip
    async with two.http() as http:
        for method, path, body in tries:
            content = body if isinstance(body, bytes) else None
            answer = await http.request(
                method,
                httpx.URL(two.url).copy_with(raw_path=b"/v1" + path.encode()),
                json=None if content else body,
                content=content,
                headers={"authorization": f"Bearer {stranger}", "x-gateway-provider": "eu"},
            )
            assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found"), (path, answer.text)
    assert scripted.requests == []
    strange = {**FILE, "id": "file-unknown"}
    scripted.default = json_answer({"object": "list", "data": [FILE, strange], "has_more": False})
    async with two.http() as http:
        own = await http.get("/files", headers={"x-gateway-provider": "eu"})
        theirs = await http.get("/files", headers={"x-gateway-provider": "eu", "authorization": f"Bearer {stranger}"})
    assert [item["id"] for item in own.json()["data"]] == ["file-abc123", "file-unknown"]
    assert theirs.json() == {"object": "list", "data": [strange], "has_more": False}


async def test_a_model_that_is_not_where_the_file_is_is_refused(two: Door, scripted: ScriptedUpstream) -> None:
    await created(two, scripted, "/files", FILE)
    body = {"model": "fast", "messages": [{"role": "user", "content": [{"file": {"file_id": "file-abc123"}}]}]}
    async with two.http() as http:
        answer = await http.post("/chat/completions", json=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "provider_mismatch")
    assert "which does not serve `fast`" in answer.json()["error"]["message"]
    assert scripted.requests == []


async def test_the_credential_that_made_it_is_the_one_that_is_used(
    transactional_db: None, tmp_path: Path, scripted: ScriptedUpstream
) -> None:
    def start() -> str:
        configure(scripted.url)
        return client_key()[1]

    def another_first() -> str:
        """A second credential, older by its date, so that it comes before the one that made the file."""
        main = Credential.objects.get(provider__name="eu")
        other = Credential(provider=main.provider, name="other", created_at=main.created_at - timedelta(days=1))
        other.seal("another-account-canary")
        other.save()
        return key

    async with house.open_house(start, tmp_path) as door:
        await created(door, scripted, "/files", FILE)
        key = door.key
    async with house.open_house(another_first, tmp_path) as door, door.http() as http:
        await http.get("/files/file-abc123")
        await http.get("/files/file-unknown", headers={"x-gateway-provider": "eu"})
    assert [request.header("authorization") for request in scripted.requests] == [
        f"Bearer {TOKEN}", "Bearer another-account-canary",
    ]  # fmt: skip


async def test_a_plain_chat_asks_nothing_of_the_table(two: Door, scripted: ScriptedUpstream) -> None:
    scripted.default = json_answer(golden.COMPLETION)
    asked: list[str] = []

    def note(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        asked.append(sql)
        return execute(sql, params, many, context)

    wrapper = await two.engine.sql(lambda: connection.execute_wrapper(note))
    await two.engine.sql(wrapper.__enter__)
    async with two.http() as http:
        await http.post("/chat/completions", json={"model": "fast", "messages": [], "previous_response_id": "resp_1"})
        assert not [sql for sql in asked if "knownid" in sql]
        await http.post("/chat/completions", json={"model": "fast", "messages": [], "store": True})
    await two.engine.sql(wrapper.__exit__, None, None, None)
    assert [sql.split()[0] for sql in asked if "knownid" in sql and not sql.startswith("DELETE")][:1] == ["INSERT"]
    assert await sync_to_async(lambda: KnownId.objects.get().id)() == golden.COMPLETION["id"]


async def test_what_is_not_to_be_stored_is_not_remembered(two: Door, scripted: ScriptedUpstream) -> None:
    await created(two, scripted, "/responses", RESPONSE, model="eu/gpt-5", input="Tell", store=False)
    assert await sync_to_async(KnownId.objects.count)() == 0


async def test_without_the_table_an_id_cannot_be_told_from_anothers(
    two: Door, scripted: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: object) -> None:
        raise ConnectionError

    monkeypatch.setattr(two.engine.process.stickies, "_sql", away)  # type: ignore[union-attr]
    scripted.default = json_answer(FILE)
    async with two.http() as http:
        lost = await http.get("/files/file-abc123")
        made = await http.post("/files", json={})
        found = await http.get("/files/file-abc123")
    assert (lost.status_code, lost.json()["error"]["code"]) == (503, "database_unavailable")
    assert (made.status_code, found.status_code) == (200, 200)


@pytest.mark.django_db(transaction=True)
async def test_who_had_an_id_first_keeps_it_and_what_is_unused_grows_old() -> None:
    async def sql(job: Any, *args: Any) -> Any:
        return await sync_to_async(job)(*args)

    mine, theirs = Sticky("p1", "c1", "me"), Sticky("p2", "c2", "they")
    one, other = Stickies(sql), Stickies(sql)
    await one.remember(["file-1", "", "x" * 201, "file-\0"], mine)
    await other.remember(["file-1", "file-2"], theirs)
    assert await other.find(["file-1", "file-2", "file-3"]) == {"file-1": mine, "file-2": theirs}
    today = timezone.now().date()
    rows = KnownId.objects
    await sync_to_async(rows.filter(id="file-1").update)(used_on=today - KEPT_FOR - timedelta(days=1))
    await sync_to_async(rows.filter(id="file-2").update)(used_on=today - timedelta(days=3))
    await Stickies(sql).find(["file-2"])
    assert await sync_to_async(lambda: rows.get(id="file-2").used_on)() == today
    await Stickies(sql).remember(["file-4"], mine)
    assert await sync_to_async(lambda: sorted(rows.values_list("id", flat=True)))() == ["file-2", "file-4"]


async def test_memory_holds_so_many_ids_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.routing.stickies.MAX_KEPT", 3)
    stickies = Stickies()
    for number in range(5):
        await stickies.remember([f"file-{number}"], Sticky("p", "c", "me"))
    assert sorted(await stickies.find([f"file-{number}" for number in range(5)])) == ["file-2", "file-3", "file-4"]


def test_more_ids_than_anybody_names_are_refused() -> None:
    import msgspec

    fields = {"file_ids": msgspec.Raw(msgspec.json.encode([f"file-{number}" for number in range(501)]))}
    with pytest.raises(BadRequest, match="more than 500"):
        mentions.in_body(fields, msgspec.json.encode(fields))


def test_words_of_a_path_are_no_ids() -> None:
    assert mentions.in_path("/fine_tuning/jobs") == []
    assert mentions.in_path("/vector_stores/vs_1/file_batches/vsfb%5F2/files") == ["vs_1", "vsfb_2"]
    assert mentions.in_path("/chat/completions/chatcmpl-1/messages") == ["chatcmpl-1"]
