"""rotate_client_key, revoke_client_key and list_client_keys on real rows."""

import contextlib
import io
import json
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone
from pytest_django import Settings

from ledger.models import UsageRecord
from providers import rotation
from providers.cards import key_card
from providers.models import ClientKey, Issuer, Team
from providers.rotation import Rotation

pytestmark = pytest.mark.django_db
ALLOWED: dict[str, Any] = {
    "rpm": 600,
    "tpm": 9000,
    "concurrency": 5,
    "budget": "5.00/month",
    "endpoints": ["embeddings"],
    "max_tokens": 100,
    "cidrs": ["192.0.2.0/24"],
    "tags": {"cost_centre": "4711"},
    "unknown_price": "0.05",
}


def run(*args: str) -> Any:
    out = io.StringIO()
    call_command(*args, "--json", stdout=out, skip_checks=True)
    return json.loads(out.getvalue())


def listed(*args: str) -> list[Any]:
    out = io.StringIO()
    with contextlib.suppress(SystemExit):
        call_command("list_client_keys", *args, "--json", stdout=out)
    keys: list[Any] = json.loads(out.getvalue())["keys"]
    return keys


@pytest.fixture
def old() -> ClientKey:
    team = Team.objects.create(name="web", rpm=1000, budget="50/month")
    row, _ = ClientKey.objects.mint("web-app", aliases=["fast"], team=team, **ALLOWED)
    return row


def test_s17_the_successor_may_what_the_old_key_may_and_is_counted_together_with_it(old: ClientKey) -> None:
    said = run("rotate_client_key", old.id)
    new = ClientKey.objects.with_token(said["key"])
    assert new is not None
    assert new.id == said["id"] != old.id
    old = ClientKey.objects.get(pk=old.id)
    before, after = key_card(old), key_card(new)
    for name in (
        "name",
        "aliases",
        "limits",
        "endpoints",
        "max_tokens",
        "cidrs",
        "tags",
        "budgets",
        "team",
        "principal",
    ):
        assert getattr(before, name) == getattr(after, name), name
    assert after.principal == old.id
    assert [(card.id, card.amount) for card in after.budgets] == [(f"key:{old.id}:month", Decimal("5.00"))]
    assert (after.unknown_price, after.unknown_price_charge) == ("charge", Decimal("0.05"))
    assert before.enabled
    assert old.expires_at is not None
    assert abs(old.expires_at - timezone.now() - timedelta(hours=24)) < timedelta(seconds=30)
    assert new.expires_at is None


def test_s17_a_chain_of_successors_keeps_the_first_principal(old: ClientKey) -> None:
    second = run("rotate_client_key", old.id)
    third = run("rotate_client_key", second["id"])
    assert third["principal"] == second["principal"] == old.id
    assert ClientKey.objects.get(pk=third["id"]).principal == old.id


def test_a_successor_never_lives_longer_than_the_key_was_to(old: ClientKey) -> None:
    ends = timezone.now() + timedelta(hours=2)
    ClientKey.objects.filter(pk=old.id).update(expires_at=ends)
    said = run("rotate_client_key", old.id, "--overlap", "3h")
    assert {row.expires_at for row in ClientKey.objects.all()} == {ends}
    assert said["old_expires_at"] == ends.isoformat(timespec="seconds")


def test_r50_a_second_run_makes_no_second_successor_and_shows_no_token(old: ClientKey) -> None:
    first = run("rotate_client_key", old.id)
    again = run("rotate_client_key", old.id, "--overlap", "48h")
    assert (again["id"], again["key"]) == (first["id"], None)
    assert again["old_expires_at"] == first["old_expires_at"]
    assert ClientKey.objects.count() == 2
    shorter = run("rotate_client_key", old.id, "--overlap", "1h")
    assert shorter["old_expires_at"] < first["old_expires_at"]


def test_r50_who_dies_before_the_token_is_shown_has_changed_nothing(old: ClientKey) -> None:
    def killed(done: Rotation) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rotation.rotate(old.id, overlap=timedelta(hours=1), show=killed)
    row = ClientKey.objects.get()
    assert (row.expires_at, row.successor) == (None, None)
    assert run("rotate_client_key", old.id)["key"]


def test_s16_a_compromised_key_is_refused_at_once_and_its_last_day_is_told(old: ClientKey) -> None:
    for hours, name in ((1, "req_new"), (30, "req_old")):
        UsageRecord.objects.create(
            id=name, key_id=old.id, alias="fast", status=200, started_at=timezone.now() - timedelta(hours=hours)
        )
    run("rotate_client_key", old.id)
    said = run("rotate_client_key", old.id, "--compromised")
    assert said["key"] is None
    assert [row["id"] for row in said["last_day"]] == ["req_new"]
    row = ClientKey.objects.get(pk=old.id)
    assert row.compromised_at is not None
    assert not key_card(row).is_live(timezone.now().timestamp())
    ClientKey.objects.filter(pk=old.id).update(enabled=True, expires_at=None)
    assert not key_card(ClientKey.objects.get(pk=old.id)).is_live(timezone.now().timestamp())


def test_a_dry_run_changes_nothing_and_shows_no_token(old: ClientKey) -> None:
    said = run("rotate_client_key", old.id, "--dry-run")
    assert (said["id"], said["key"], said["dry_run"]) == (None, None, True)
    row = ClientKey.objects.get()
    assert (row.expires_at, row.successor) == (None, None)


@pytest.mark.parametrize("state", [{"enabled": False}, {"expires_at": timezone.now()}])
def test_a_key_that_is_refused_has_no_successor(old: ClientKey, state: dict[str, Any]) -> None:
    ClientKey.objects.filter(pk=old.id).update(**state)
    with pytest.raises(CommandError, match="is revoked, disabled or expired"):
        run("rotate_client_key", old.id)
    assert ClientKey.objects.count() == 1


def test_an_unknown_id_and_a_span_that_is_none_are_refused(old: ClientKey) -> None:
    with pytest.raises(CommandError, match="no client key with the id nobody"):
        run("rotate_client_key", "nobody")
    with pytest.raises(CommandError, match="--overlap soon is no span"):
        run("rotate_client_key", old.id, "--overlap", "soon")


def test_stale_keys_are_those_that_still_work_though_they_should_be_gone(old: ClientKey, settings: Settings) -> None:
    other, _ = ClientKey.objects.mint("other")
    assert listed("--stale") == []
    said = run("rotate_client_key", old.id)
    used_at = timezone.now().replace(microsecond=0)
    UsageRecord.objects.create(id="req_1", key_id=old.id, started_at=used_at - timedelta(days=2))
    UsageRecord.objects.create(id="req_2", key_id=old.id, started_at=used_at)
    (stale,) = listed("--stale")
    assert (stale["id"], stale["successor"], stale["last_used_at"]) == (old.id, said["id"], used_at.isoformat())
    settings.GATEWAY_KEY_PEPPERS = {"p9": bytes(range(32)), **settings.GATEWAY_KEY_PEPPERS}
    assert {key["id"] for key in listed("--stale")} == {old.id, said["id"], other.id}
    call_command("revoke_client_key", old.id, stdout=io.StringIO())
    assert old.id not in {key["id"] for key in listed("--stale")}
    assert {key["id"]: key["state"] for key in listed()}[old.id] == "disabled"


def test_an_export_names_the_successor_for_both(old: ClientKey) -> None:
    run("rotate_client_key", old.id)
    out, err = io.StringIO(), io.StringIO()
    call_command("export_config", stdout=out, stderr=err)
    assert "web-app:" in out.getvalue()
    assert err.getvalue() == ""


def test_the_tokens_of_an_issuer_are_worth_the_successor_from_then_on(old: ClientKey) -> None:
    other, _ = ClientKey.objects.mint("other")
    common = {"audience": "app", "jwks_url": "https://id.example/jwks"}
    Issuer.objects.create(name="one", issuer="https://one.example", key=old, **common)
    Issuer.objects.create(
        name="two", issuer="https://two.example", profile_claim="plan", profiles={"a": old.id, "b": other.id}, **common
    )
    said = run("rotate_client_key", old.id, "--compromised")
    assert Issuer.objects.get(name="one").key_id == said["id"]
    assert Issuer.objects.get(name="two").profiles == {"a": said["id"], "b": other.id}
    assert Issuer.history.filter(actor="command:rotate_client_key").count() == 2


def test_a_key_that_missed_the_deadline_of_its_pepper_works_no_more_and_is_not_stale(
    old: ClientKey, settings: Settings
) -> None:
    settings.GATEWAY_KEY_PEPPERS = {"p9": bytes(range(32)), **settings.GATEWAY_KEY_PEPPERS}
    assert [key["id"] for key in listed("--stale")] == [old.id]
    ClientKey.objects.update(pepper_deadline=timezone.now() - timedelta(seconds=1))
    assert listed("--stale") == []
    assert [key["state"] for key in listed()] == ["expired"]
