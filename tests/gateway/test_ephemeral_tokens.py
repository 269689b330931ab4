"""Ephemeral tokens at the front door: made with a secret key, used by an end user, dead with the key."""

import time
from typing import Any

import httpx
import pytest
import time_machine
from asgiref.sync import sync_to_async
from django.core.management import CommandError, call_command
from django.db.backends.utils import CursorWrapper

from providers.models import ClientKey
from tests.gateway import golden
from tests.gateway.house import Door, client_key
from tests.gateway.test_pages import APP, BODY, OTHER, cors, looked, post, preflight
from tests.scripted import ScriptedUpstream, json_answer


async def mint(door: Door, key: str = "", **wish: Any) -> httpx.Response:
    return await post(door, key or door.key, None, path="/client_tokens", json={"end_user": "anna", **wish})


async def token_of(door: Door, key: str = "", **wish: Any) -> str:
    answer = await mint(door, key, **wish)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["token"])


async def minter(**fields: Any) -> tuple[ClientKey, str]:
    return await sync_to_async(lambda: client_key("server", **fields))()


async def test_a_token_is_made_shown_once_and_charged_to_its_maker_and_its_end_user(
    door: Door, scripted: ScriptedUpstream
) -> None:
    scripted.default = json_answer(golden.COMPLETION)
    row, key = await minter(aliases=["fast"])
    answer = await mint(door, key, expires_in=60)
    said = answer.json()
    assert (said["object"], said["end_user"], answer.headers["cache-control"]) == ("client_token", "anna", "no-store")
    assert 58 <= said["expires_at"] - time.time() <= 60
    assert (await post(door, said["token"], None, json={**BODY, "user": "somebody else"})).status_code == 200
    assert (await post(door, said["token"], None, json={**BODY, "model": "lab/x"})).status_code == 404
    [record] = await door.rows(1)
    assert (record.key_id, record.end_user) == (row.id, "anna")


@pytest.mark.parametrize(
    ("wish", "field"),
    [
        ({"end_user": ""}, "end_user"),
        ({"end_user": 7}, "end_user"),
        ({"expires_in": 3601}, "expires_in"),
        ({"expires_in": 0}, "expires_in"),
        ({"aliases": ["slow"]}, "aliases"),
        ({"origin": OTHER}, "origin"),
        ({"rpm": 61}, "rpm"),
        ({"max_tokens": "many"}, "max_tokens"),
    ],
)
async def test_a_wish_that_cannot_be_granted_names_the_field(door: Door, wish: dict[str, Any], field: str) -> None:
    _, key = await minter(aliases=["fast"], rpm=60)
    answer = await mint(door, key, **wish)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, field)


async def test_only_a_secret_key_makes_tokens(door: Door) -> None:
    token = await token_of(door)
    for wrong, status in ((token, 403), (token[:-1], 401), ("", 401)):
        headers = {"authorization": f"Bearer {wrong}" if wrong else ""}
        async with door.http() as http:
            answer = await http.post("/client_tokens", json={"end_user": "bob"}, headers=headers)
        assert answer.status_code == status


async def test_a_token_works_until_its_second_and_not_one_longer(door: Door, scripted: ScriptedUpstream) -> None:
    scripted.default = json_answer(golden.COMPLETION)
    answer = (await mint(door, expires_in=2)).json()
    assert (await post(door, answer["token"], None)).status_code == 200
    with time_machine.travel(answer["expires_at"] - 0.01, tick=False):
        assert (await post(door, answer["token"], None)).status_code == 200
    with time_machine.travel(answer["expires_at"], tick=False):
        refused = await post(door, answer["token"], None)
    assert (refused.status_code, refused.json()["error"]["code"]) == (401, "invalid_api_key")


async def test_a_known_token_costs_no_sql(
    door: Door, scripted: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even the first use of another token of the same key."""
    scripted.default = json_answer(golden.COMPLETION)
    first, second = await token_of(door), await token_of(door, end_user="bob")
    assert (await post(door, first, None)).status_code == 200
    await door.rows(1)
    looked_up: list[str] = []
    execute = CursorWrapper.execute

    def noted(self: Any, sql: str, params: Any = None) -> Any:
        if "providers_clientkey" in str(sql):
            looked_up.append(str(sql))
        return execute(self, sql, params)

    monkeypatch.setattr(CursorWrapper, "execute", noted)
    for token in (first, second, first):
        assert (await post(door, token, None)).status_code == 200
    assert looked_up == []


async def test_a_token_dies_with_its_minter(door: Door, scripted: ScriptedUpstream) -> None:
    scripted.default = json_answer(golden.COMPLETION)
    row, key = await minter()
    token = await token_of(door, key)
    assert (await post(door, token, None)).status_code == 200
    await sync_to_async(lambda: ClientKey.objects.filter(pk=row.pk).update(enabled=False))()
    await looked(door)
    assert (await post(door, token, None)).status_code == 401
    await sync_to_async(lambda: ClientKey.objects.filter(pk=row.pk).update(enabled=True))()
    await looked(door)
    assert (await post(door, token, None)).status_code == 200
    await sync_to_async(lambda: ClientKey.objects.filter(pk=row.pk).delete())()
    await looked(door)
    assert (await post(door, token, None)).status_code == 401


async def test_what_the_minter_may_no_longer_do_its_tokens_may_not_either(
    door: Door, scripted: ScriptedUpstream
) -> None:
    scripted.default = json_answer(golden.COMPLETION)
    row, key = await minter(aliases=["fast", "lab/*"])
    token = await token_of(door, key, aliases=["fast"])
    assert (await post(door, token, None)).status_code == 200
    await sync_to_async(lambda: ClientKey.objects.filter(pk=row.pk).update(aliases=["lab/*"]))()
    await looked(door)
    assert (await post(door, token, None)).status_code == 404


async def test_a_token_for_a_page_works_in_that_page_only(door: Door, scripted: ScriptedUpstream) -> None:
    scripted.default = json_answer(golden.COMPLETION)
    _, key = await minter(origins=[APP, "https://*.example.org"])
    await looked(door)
    assert (await preflight(door, APP)).status_code == 204
    token = await token_of(door, key, origin=APP)
    answer = await post(door, token, APP)
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, APP)
    for origin in (OTHER, None, "https://a.example.org"):
        refused = await post(door, token, origin)
        assert (refused.status_code, cors(refused)) == (403, [])
    assert cors(await post(door, await token_of(door, key), APP)) == []


async def test_an_end_user_has_its_limits_over_all_its_tokens(door: Door, scripted: ScriptedUpstream) -> None:
    scripted.default = json_answer(golden.COMPLETION)
    _, key = await minter(end_user_rpm=30)
    tokens = [await token_of(door, key) for _ in range(5)]
    found = [(await post(door, token, None)).status_code for token in tokens]
    assert found == [200] * 3 + [429] * 2  # a tenth of a minute's at a stroke
    assert (await post(door, await token_of(door, key, end_user="bob"), None)).status_code == 200


async def test_the_command_makes_a_token_that_works(door: Door, scripted: ScriptedUpstream, capsys: Any) -> None:
    scripted.default = json_answer(golden.COMPLETION)
    row, _ = await minter()
    run = sync_to_async(call_command)
    await run("create_client_token", row.id, "--end-user", "anna", "--alias", "fast", "--expires", "5m")
    token = capsys.readouterr().out.split()[0]
    assert (await post(door, token, None)).status_code == 200
    for arguments, wrong in (
        (("nobody",), "no client key"),
        ((row.id, "--expires", "2h"), "3600"),
        ((row.id, "--alias", "a*b"), "before its end"),
    ):
        with pytest.raises(CommandError, match=wrong):
            await run("create_client_token", *arguments, "--end-user", "anna")
