"""Every way of writing leaves its record of history, and none holds a secret."""

import io
from typing import Any

import pytest
from django.core.management import call_command
from django.db import connection, transaction

from providers import audit, keys
from providers.changes import NAMED_LIMIT
from providers.models import ClientKey, Credential, ModelAlias, Provider, Route, Team

pytestmark = pytest.mark.django_db
CANARY = "sk-canary-0123456789-wxyz"


def records(model: Any) -> list[tuple[str, str]]:
    """(kind, actor) of each, oldest first."""
    return list(model.history.order_by("history_id").values_list("history_type", "actor"))


def test_save_and_delete_are_recorded() -> None:
    team = Team.objects.create(name="web")
    team.rpm = 60
    team.save()
    team.delete()
    assert [kind for kind, _ in records(Team)] == ["+", "~", "-"]
    made, changed, deleted = Team.history.order_by("history_id")
    assert [(item.field, item.old, item.new) for item in changed.diff_against(made).changes] == [("rpm", 0, 60)]
    assert deleted.rpm == 60


def test_what_passes_by_save_is_recorded_too() -> None:
    teams = Team.objects.bulk_create([Team(name="a"), Team(name="b")])
    Team.objects.filter(name="a").update(rpm=5)
    teams[1].rpm = 7
    Team.objects.bulk_update(teams[1:], ["rpm"])
    Team.objects.all().delete()
    assert sorted(Team.history.values_list("name", "history_type", "rpm")) == [
        ("a", "+", 0), ("a", "-", 5), ("a", "~", 5),
        ("b", "+", 0), ("b", "-", 7), ("b", "~", 7),
    ]  # fmt: skip


def test_an_update_of_very_many_rows_is_recorded_row_by_row() -> None:
    Team.objects.bulk_create([Team(name=f"team-{n}") for n in range(NAMED_LIMIT + 2)])
    assert Team.objects.update(rpm=9) == NAMED_LIMIT + 2
    assert Team.history.filter(history_type="~", rpm=9).count() == NAMED_LIMIT + 2


def test_what_is_rolled_back_leaves_no_record() -> None:
    with transaction.atomic():
        Team.objects.create(name="web")
        transaction.set_rollback(True)
    assert records(Team) == []


def test_a_command_is_the_actor_of_what_it_writes() -> None:
    call_command("create_client_key", "app", stdout=io.StringIO())
    row = ClientKey.objects.get()
    call_command("revoke_client_key", row.id, stdout=io.StringIO())
    call_command("rotate_client_key", ClientKey.objects.mint("other")[0].id, stdout=io.StringIO())
    assert [actor for _, actor in records(ClientKey)] == [
        "command:create_client_key",
        "command:revoke_client_key",
        "",
        "command:rotate_client_key",
        "command:rotate_client_key",
    ]
    with audit.acting("someone"):
        Team.objects.create(name="web")
    Team.objects.update(rpm=1)
    assert records(Team) == [("+", "someone"), ("~", "")]


def test_s14_no_history_holds_a_secret_a_seal_or_a_digest() -> None:
    lab = Provider.objects.create(name="lab", base_url="https://lab.example.com/v1")
    credential = Credential(provider=lab)
    credential.seal(CANARY)
    credential.save()
    row, token = ClientKey.objects.mint("app")
    ClientKey.objects.filter(pk=row.pk).update(digest=row.digest, pepper_id=row.pepper_id)
    found = ""
    with connection.cursor() as cursor:
        for model in (Provider, Credential, ModelAlias, Route, Team, ClientKey):
            cursor.execute(f"SELECT * FROM {model.history.model._meta.db_table}")
            found += repr(cursor.fetchall())
    assert "'lab'" in found
    assert row.id in found
    assert CANARY not in found
    assert credential.sealed not in found
    assert token[-49:] not in found
    assert bytes(row.digest).hex() not in found.lower()
    assert repr(bytes(row.digest)) not in found
    assert keys.parse(token) == keys.Parsed("sk", row.id)


def test_what_no_history_holds_leaves_no_record() -> None:
    row, _ = ClientKey.objects.mint("app")
    ClientKey.objects.filter(pk=row.pk).update(pepper_id="p9")
    assert [kind for kind, _ in records(ClientKey)] == ["+"]
