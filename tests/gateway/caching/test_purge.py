"""What was purged is given no more, by any process, within two seconds."""

import asyncio
import io
import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command
from django.test import Client
from django.urls import reverse

from providers.models import CachePurge, ClientKey, ModelAlias
from tests.gateway import golden
from tests.gateway.caching.test_exact import refreshed
from tests.gateway.house import Door, client_key
from tests.scripted import ScriptedUpstream, json_answer

ASK: dict[str, Any] = {"model": "fast", "messages": [{"role": "user", "content": "Hello!"}]}


async def states(http: httpx.AsyncClient, *tokens: str) -> list[str]:
    answers = [
        await http.post("/chat/completions", json=ASK, headers={"authorization": f"Bearer {token}"}) for token in tokens
    ]
    return [answer.headers["x-gateway-cache"] for answer in answers]


def command(*arguments: str) -> Callable[[], Any]:
    def run() -> Any:
        out = io.StringIO()
        call_command("purge_cache", *arguments, "--json", stdout=out)
        return json.loads(out.getvalue())

    return run


async def test_a_purge_of_a_key_an_alias_or_all_reaches_the_process_within_two_seconds(
    door: Door, scripted: ScriptedUpstream
) -> None:
    scripted.default = json_answer(golden.COMPLETION)
    row, other = await sync_to_async(client_key)("other")
    alias = await sync_to_async(ModelAlias.objects.get)(name="fast")
    async with door.http() as http:
        assert await states(http, door.key, other) == ["miss", "miss"]
        await sync_to_async(command("--key", row.id))()
        await asyncio.sleep(1.6)
        assert await states(http, door.key, other) == ["hit", "miss"]
        assert await sync_to_async(command("--alias", "fast"))() == {"purged": [f"alias:{alias.id}"]}
        await asyncio.sleep(1.6)
        assert await states(http, door.key, other) == ["miss", "miss"]
        assert await states(http, door.key, other) == ["hit", "hit"]
        await sync_to_async(command("--all"))()
        await asyncio.sleep(1.6)
        assert await states(http, door.key, other) == ["miss", "miss"]
    assert len(scripted.requests) == 7


async def test_what_a_key_brought_into_a_shared_cache_goes_with_it(door: Door, scripted: ScriptedUpstream) -> None:
    scripted.default = json_answer(golden.COMPLETION)
    await sync_to_async(lambda: ModelAlias.objects.update(cache_scope="shared"))()
    row, author = await sync_to_async(client_key)("author")
    await refreshed(door)
    async with door.http() as http:
        assert await states(http, author, door.key) == ["miss", "hit"]
        await sync_to_async(command("--key", row.id))()
        await asyncio.sleep(1.6)
        assert await states(http, door.key) == ["miss"]


@pytest.mark.django_db
def test_the_admin_purges_by_alias_by_key_and_all(client: Client) -> None:
    client.force_login(User.objects.create_superuser("root", password="x"))
    alias = ModelAlias.objects.create(name="fast", cache="on")
    key, _ = client_key()
    for kind, action, row in (
        ("modelalias", "purge", alias),
        ("clientkey", "purge", key),
        ("modelalias", "purge_all", alias),
    ):
        url = reverse(f"admin:providers_{kind}_changelist")
        answer = client.post(url, {"action": action, "_selected_action": [row.pk]}, follow=True)
        assert b"given" in answer.content
    assert {purge.id: purge.actor for purge in CachePurge.objects.all()} == {
        f"alias:{alias.id}": "root",
        f"key:{key.id}": "root",
        "all": "root",
    }


@pytest.mark.django_db
def test_the_command_says_what_is_missing() -> None:
    for arguments in ((), ("--alias", "nothing"), ("--key", "nothing")):
        with pytest.raises(CommandError):
            call_command("purge_cache", *arguments)
    assert not CachePurge.objects.exists()
    assert not ClientKey.objects.exists()
