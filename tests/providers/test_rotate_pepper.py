"""rotate_pepper: who is on which pepper, who has until when, and what a use changes."""

import io
import json
from datetime import timedelta
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone
from pytest_django import Settings

from providers import keyring, keys, repepper
from providers.cards import key_card
from providers.models import ClientKey
from providers.targets import KeyCard

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("fresh")]
OLD = {"p1": bytes(range(32))}
NEW = {"p2": bytes(range(1, 33)), **OLD}


@pytest.fixture(autouse=True)
def _old(settings: Settings) -> None:
    settings.GATEWAY_KEY_PEPPERS = OLD


def run(*args: str) -> tuple[int, Any]:
    """The exit code, and the object that was printed."""
    out = io.StringIO()
    try:
        call_command("rotate_pepper", *args, "--json", stdout=out)
    except SystemExit as end:
        return int(str(end.code)), json.loads(out.getvalue())
    return 0, json.loads(out.getvalue())


def use(token: str) -> KeyCard | None:
    """What a request with the key does: look it up, and move it where its card asks for that."""
    keyring.forget(None)
    card = keyring.load(token)
    if card is not None and card.repepper:
        keyring.renew(token)
    return card


def test_r50_from_the_old_pepper_to_the_new_one(settings: Settings) -> None:
    (used, token), (unused, other) = ClientKey.objects.mint("used"), ClientKey.objects.mint("unused")
    dead, _ = ClientKey.objects.mint("dead")
    ClientKey.objects.filter(pk=dead.pk).update(enabled=False)
    assert run("--status") == (0, {"pepper": "p1", "counts": {"p1": 2}, "changed": 0, "left": []})

    settings.GATEWAY_KEY_PEPPERS = NEW
    code, said = run("--status")
    assert (code, said["pepper"], said["counts"], said["changed"]) == (1, "p2", {"p1": 2}, 0)
    assert [(key["id"], key["known"], key["deadline"]) for key in said["left"]] == [
        (unused.id, True, None), (used.id, True, None),
    ]  # fmt: skip
    assert run("--dry-run")[1] == said

    code, said = run("--deadline", "7d")
    assert (code, said["changed"]) == (1, 2)
    deadlines = {key["deadline"] for key in said["left"]}
    assert run("--deadline", "14d")[1]["changed"] == 0
    assert {key["deadline"] for key in run("--status")[1]["left"]} == deadlines

    assert use(token) is not None
    code, said = run("--status")
    assert (code, said["counts"], [key["id"] for key in said["left"]]) == (1, {"p1": 1, "p2": 1}, [unused.id])
    row = ClientKey.objects.get(pk=used.id)
    assert (row.pepper_id, row.pepper_deadline) == ("p2", None)
    assert bytes(row.digest) == keys.digest(NEW["p2"], token)

    ClientKey.objects.filter(pk=unused.pk).update(pepper_deadline=timezone.now() - timedelta(seconds=1))
    card = use(other)
    assert card is not None
    assert not card.is_live(timezone.now().timestamp())
    assert run("--status")[0] == 0
    settings.GATEWAY_KEY_PEPPERS = {"p2": NEW["p2"]}
    assert use(token) is not None
    assert use(other) is None
    call_command("check", "--database", "default", "--fail-level", "WARNING")


def test_without_the_command_no_use_moves_a_key_while_the_order_is_being_rolled_out(settings: Settings) -> None:
    row, token = ClientKey.objects.mint("app")
    settings.GATEWAY_KEY_PEPPERS = NEW
    card = use(token)
    assert card is not None
    assert not card.repepper
    keyring.renew(token)
    assert ClientKey.objects.get().pepper_id == "p1"
    assert row.pepper_deadline is None


def test_a_key_that_was_changed_meanwhile_is_not_moved(settings: Settings) -> None:
    row, token = ClientKey.objects.mint("app")
    settings.GATEWAY_KEY_PEPPERS = NEW
    run()
    stale = ClientKey.objects.get()
    ClientKey.objects.update(digest=bytes(32))
    repepper.move(stale, token)
    assert (ClientKey.objects.get().pepper_id, bytes(ClientKey.objects.get().digest)) == ("p1", bytes(32))
    assert row.pepper_id == "p1"


def test_the_deadline_is_in_the_history_with_its_actor(settings: Settings) -> None:
    ClientKey.objects.mint("app")
    settings.GATEWAY_KEY_PEPPERS = NEW
    run()
    record = ClientKey.history.latest()
    assert record.actor == "command:rotate_pepper"
    assert record.history_change_reason.startswith("old pepper, until ")


def test_the_earlier_of_two_ends_holds() -> None:
    row, _ = ClientKey.objects.mint("app")
    soon, later = timezone.now() + timedelta(days=1), timezone.now() + timedelta(days=2)
    for row.expires_at, row.pepper_deadline, ends in ((soon, later, soon), (later, soon, soon), (None, soon, soon)):
        assert key_card(row).expires_at == ends.timestamp()


def test_a_key_under_a_pepper_that_is_gone_is_named_so(settings: Settings) -> None:
    ClientKey.objects.mint("app")
    settings.GATEWAY_KEY_PEPPERS = {"p2": NEW["p2"]}
    out = io.StringIO()
    with pytest.raises(SystemExit):
        call_command("rotate_pepper", "--status", stdout=out)
    assert "under p1, which is not in GATEWAY_KEY_PEPPERS: it is refused, without a deadline" in out.getvalue()


def test_what_is_no_span_is_refused() -> None:
    with pytest.raises(CommandError, match="--deadline soon is no span"):
        run("--deadline", "soon")
