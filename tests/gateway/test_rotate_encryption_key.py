"""rotate_encryption_key: everything under the new key, whatever happens on the way."""

import io
import json
import weakref
from collections.abc import Mapping
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db.models import F
from pytest_django import Settings

from gateway.limits.store import Store
from gateway.models import GatewayProcess
from providers import reseal, vault
from providers.models import Credential, Provider

pytestmark = pytest.mark.django_db
OLD = {"k1": bytes(range(32))}
NEW = {"k2": bytes(range(1, 33)), **OLD}
ONLY_NEW = {"k2": NEW["k2"]}


def run(*args: str) -> tuple[int, Any]:
    """The exit code, and the object that was printed."""
    out = io.StringIO()
    try:
        call_command("rotate_encryption_key", *args, "--json", stdout=out)
    except SystemExit as end:
        return int(str(end.code)), json.loads(out.getvalue())
    return 0, json.loads(out.getvalue())


@pytest.fixture
def stored(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> list[Credential]:
    """Seven credentials under the old key, in batches of two; the new key is there."""
    monkeypatch.setattr(reseal, "BATCH", 2)
    settings.GATEWAY_ENCRYPTION_KEYS = OLD
    lab = Provider.objects.create(name="lab", base_url="https://lab.example.com/v1")
    found = []
    for n in range(7):
        credential = Credential(provider=lab, name=f"c{n}")
        credential.seal(f"secret-{n}")
        credential.save()
        found.append(credential)
    Credential.objects.create(provider=lab, name="reference", reference="env:LAB_KEY")
    settings.GATEWAY_ENCRYPTION_KEYS = NEW
    return found


def opened(keys: Mapping[str, bytes], settings: Settings) -> list[str]:
    settings.GATEWAY_ENCRYPTION_KEYS = keys
    return [row.unseal().reveal() for row in Credential.objects.exclude(sealed="").order_by("name")]


SECRETS = [f"secret-{n}" for n in range(7)]


def test_every_sealed_column_is_found_by_looking_at_the_models() -> None:
    assert [str(column) for column in reseal.columns()] == [
        "providers.Credential.sealed",
        "ledger.CapturedPayload.request",
        "ledger.CapturedPayload.response",
        "gateway.KeyedRequest.answer",
    ]


def test_r50_the_way_from_the_old_key_to_the_new_one(stored: list[Credential], settings: Settings) -> None:
    assert run("--status") == (0, {"key": "k2", "counts": {"k1": 7}, "rewrapped": 0, "closed": [], "without_key": []})
    assert run("--verify")[0] == 1
    assert run("--rewrap", "--dry-run") == (
        1,
        {"key": "k2", "counts": {"k1": 7}, "rewrapped": 0, "closed": [], "without_key": []},
    )
    done = {"key": "k2", "counts": {"k2": 7}, "rewrapped": 7, "closed": [], "without_key": []}
    assert run("--rewrap") == (0, done)
    assert run("--rewrap") == run("--verify") == (0, done | {"rewrapped": 0})
    assert opened(ONLY_NEW, settings) == SECRETS
    assert {record.actor for record in Credential.history.filter(history_type="~")} == {"command:rotate_encryption_key"}
    assert Credential.history.filter(history_change_reason="sealed with the key k2").count() == 7


@pytest.mark.parametrize("calls", range(1, 8))
def test_r50_killed_at_any_row_nothing_is_lost_and_a_second_run_ends_it(
    stored: list[Credential], settings: Settings, monkeypatch: pytest.MonkeyPatch, calls: int
) -> None:
    real, seen = vault.seal, 0

    def dies(*args: Any, **kwargs: Any) -> str:
        nonlocal seen
        seen += 1
        if seen == calls:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(vault, "seal", dies)
    with pytest.raises(KeyboardInterrupt):
        run("--rewrap")
    monkeypatch.undo()
    assert opened(NEW, settings) == SECRETS
    # Whole batches of two were kept, and no part of one.
    assert reseal.status().counts["k2"] == (calls - 1) // 2 * 2
    assert run("--rewrap")[0] == 0
    assert opened(ONLY_NEW, settings) == SECRETS


def test_r50_what_somebody_changes_meanwhile_is_theirs(
    stored: list[Credential], settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = vault.seal

    def overtaken(keys: Mapping[str, bytes], secret: str, *, row_id: str, origin: str) -> str:
        if secret == "secret-3":
            anew = real(keys, "typed-meanwhile", row_id=row_id, origin=origin)
            Credential.objects.filter(pk=row_id).update(sealed=anew)
        return real(keys, secret, row_id=row_id, origin=origin)

    monkeypatch.setattr(vault, "seal", overtaken)
    assert run("--rewrap")[1]["rewrapped"] == 6
    assert opened(ONLY_NEW, settings) == [*SECRETS[:3], "typed-meanwhile", *SECRETS[4:]]


def test_s48_what_does_not_open_is_named_and_kept(stored: list[Credential], settings: Settings) -> None:
    moved = stored[2]
    Credential.objects.filter(pk=moved.pk).update(sealed=stored[3].sealed)
    code, said = run("--rewrap")
    assert code == 1
    assert said["rewrapped"] == 6
    (closed,) = said["closed"]
    assert closed.startswith(
        f"providers.Credential.sealed of {moved.pk}: does not decrypt with the encryption key 'k1'"
    )
    assert run("--verify")[0] == 1
    assert Credential.objects.get(pk=moved.pk).sealed == stored[3].sealed


def test_a_new_key_is_printed_and_stored_nowhere(stored: list[Credential], settings: Settings) -> None:
    entry = run("--generate", "k3")[1]["entry"]
    key_id, _, _ = entry.partition(":")
    assert (key_id, len(entry)) == ("k3", 3 + 44)
    assert reseal.status().counts == {"k1": 7}
    with pytest.raises(CommandError, match="k2 is in use"):
        run("--generate", "k2")


def test_r50_nothing_is_sealed_while_a_process_serves_that_could_not_open_it(
    stored: list[Credential], settings: Settings
) -> None:
    old, new, dead = Store("old", key_ids=OLD), Store("new", key_ids=NEW), Store("dead", key_ids=OLD)
    for process in (old, new, dead):
        process.beat("memory")
    GatewayProcess.objects.filter(id="dead").update(seen=F("seen") - 11)
    assert run("--status")[1]["without_key"] == ["old"]
    for dry_run in ([], ["--dry-run"]):
        with pytest.raises(CommandError, match=r"1 of the processes that serve lack the key k2, .*: old"):
            run("--rewrap", *dry_run)
    assert opened(OLD, settings) == SECRETS
    settings.GATEWAY_ENCRYPTION_KEYS = NEW
    old.leave()
    assert run("--rewrap")[1]["counts"] == {"k2": 7}


def test_a_process_of_an_older_version_says_nothing_and_counts_as_without_the_key(stored: list[Credential]) -> None:
    Store("older").beat("memory")
    with pytest.raises(CommandError, match="Nothing was sealed"):
        run("--rewrap")


def test_what_is_sealed_is_counted_without_all_of_it_in_memory(
    stored: list[Credential], monkeypatch: pytest.MonkeyPatch
) -> None:
    alive, most = weakref.WeakSet[Credential](), [0]
    real = reseal._open

    def opened(row: Any, value: str) -> str:
        alive.add(row)
        most[0] = max(most[0], len(alive))
        return real(row, value)

    monkeypatch.setattr(reseal, "_open", opened)
    assert reseal.status().counts.total() == len(stored) == 7
    assert most[0] <= 2 * reseal.BATCH
