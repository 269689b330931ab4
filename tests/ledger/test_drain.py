"""Entries into rows of the database: each request once, and nothing that a stranger wrote stops the others."""

from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from unittest import mock

import msgspec
import pytest
from django.db import DataError, IntegrityError, OperationalError, connection, transaction
from structlog.testing import capture_logs

from ledger import drain
from ledger.entries import Settled
from ledger.journal import Journal
from ledger.models import UsageRecord
from ledger.storable import LARGEST, LENGTHS
from tests.ledger.rows import check_on_postgresql

WHOLE = Settled(
    "r1",
    1_700_000_000.25,
    "k1",
    "web",
    "chat/completions",
    "fast",
    "fast",
    True,
    team="t1",
    team_name="blue",
    end_user="ann",
    reserved=Decimal("0.02"),
    charges=[("account", "lease", 200_000_000)],
    outcome="ok",
    status=200,
    provider="lab",
    upstream_model="gpt-4o",
    attempts=[{"provider": "lab", "status": 200}],
    sent=True,
    tokens_in=10,
    tokens_out=20,
    tokens_cached=3,
    tokens_reasoning=4,
    usage_source="provider",
    bytes_out=1234,
    ttft_ms=120,
    duration_ms=950,
    upstream_request_id="req_1",
    cost=Decimal("0.0123"),
    price_source="operator",
    credits=Decimal("1.5"),
    tokens_audio_in=5,
    tokens_audio_out=6,
    images=7,
    media_ms=8,
)


def settled(name: str, **fields: object) -> Settled:
    return msgspec.structs.replace(WHOLE, id=name, **fields)


def hostile(name: str) -> Settled:
    """An entry whose every text, number and attempt is more than a row can hold."""
    texts = dict.fromkeys(LENGTHS.keys() - {"id"}, "\0\ud800é" * 1000)
    numbers = dict.fromkeys(LARGEST, 10**30)
    nested: list[object] = []
    for _ in range(500):
        nested = [nested]
    attempts = [{"a\0": "\0\ud800", "n": 10**5000, "f": float("nan"), "deep": nested, "set": {1}}] * 5000
    return settled(name, attempts=attempts, **texts, **numbers)


def no_reject(entry: Settled, error: Exception) -> None:
    raise AssertionError(f"{entry.id} was rejected") from error


@pytest.mark.django_db
def test_every_field_of_the_entry_is_in_the_row() -> None:
    assert drain.store([WHOLE]) == ["r1"]
    row = dict(UsageRecord.objects.values().get())
    expected = msgspec.structs.asdict(WHOLE) | {"flagged": False}
    expected["started_at"] = datetime.fromtimestamp(expected.pop("at"), UTC)
    expected["key_id"], expected["team_id"] = expected.pop("key"), expected.pop("team")
    expected["accounts"] = [account for account, _, _ in expected.pop("charges")]
    assert row == expected


@pytest.mark.django_db
def test_only_ids_that_were_not_there_are_given_back() -> None:
    assert drain.store([settled("a"), settled("b"), settled("a")]) == ["a", "b"]
    for _ in range(5):
        assert drain.store([settled("a", status=500), settled("b")]) == []
    assert drain.store([settled("b"), settled("c")]) == ["c"]
    assert list(UsageRecord.objects.order_by("id").values_list("id", "status")) == [("a", 200), ("b", 200), ("c", 200)]


@pytest.mark.django_db
def test_a_batch_larger_than_one_statement_is_one_transaction() -> None:
    assert drain.store([]) == []
    entries = [settled(f"r{number:04}") for number in range(1000)]
    assert drain.store(entries) == [entry.id for entry in entries]
    with pytest.raises(ValueError):
        drain.store([*(settled(f"s{number:04}") for number in range(999)), settled("bad", at=1e300)])
    assert UsageRecord.objects.count() == 1000


@pytest.mark.django_db
def test_rows_are_a_part_of_the_callers_transaction() -> None:
    with transaction.atomic():
        assert drain.store([WHOLE]) == ["r1"]
        transaction.set_rollback(True)
    assert drain.store([WHOLE]) == ["r1"]


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("outcome", "sent", "flagged"),
    [
        ("lost", False, True),
        ("upstream_timeout", True, True),
        ("upstream_timeout", False, False),
        ("upstream_error", True, False),
        ("ok", True, False),
    ],
)
def test_lost_requests_and_ambiguous_timeouts_are_flagged(outcome: str, sent: bool, flagged: bool) -> None:
    drain.store([settled("r1", outcome=outcome, sent=sent)])
    assert UsageRecord.objects.get().flagged is flagged


@pytest.mark.django_db
def test_what_a_row_cannot_hold_is_cut_and_cleaned() -> None:
    assert drain.store_each([settled("a"), hostile("b"), settled("c")], no_reject) == ["a", "b", "c"]
    row = UsageRecord.objects.get(id="b")
    assert row.model == ("\ufffd?é" * 100)
    assert (len(row.key_id), len(row.alias)) == (40, 200)
    assert (row.tokens_in, row.status, row.bytes_out) == (2**31 - 1, 2**15 - 1, 2**63 - 1)
    assert row.attempts[0] == {
        "a\ufffd": "\ufffd?",
        "n": 2**63 - 1,
        "f": None,
        "deep": [[["list"]]],
        "set": "set",
    }
    assert 1 < len(row.attempts) < 5000
    drain.store([settled("d", tokens_in=-5, ttft_ms=None)])
    assert UsageRecord.objects.filter(id="d").values_list("tokens_in", "ttft_ms").get() == (0, None)


@pytest.mark.django_db(transaction=True)
def test_a_line_that_the_database_refuses_is_put_aside_and_the_others_are_stored(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    entries = [settled(f"r{number}", at=1e300 if number == 5 else 1.0) for number in range(9)]
    for entry in entries:
        journal.append(entry)
    with capture_logs() as logs:
        assert journal.drain() == 9
    assert [(log["event"], log["request_id"], log["error"]) for log in logs] == [("entry_rejected", "r5", "ValueError")]
    assert journal.pending == 0
    assert set(UsageRecord.objects.values_list("id", flat=True)) == {f"r{n}" for n in range(9) if n != 5}
    rejected = tmp_path / "rejected.jsonl"
    assert rejected.read_bytes() == msgspec.json.encode(entries[5]) + b"\n"
    assert rejected.stat().st_mode & 0o777 == 0o600
    assert journal.adopt() == 0  # what is put aside is no journal
    assert rejected.exists()
    journal.close()


@pytest.mark.parametrize("error", [DataError, OverflowError, TypeError])
def test_a_poison_entry_is_found_by_halving(error: type[Exception]) -> None:
    stored: list[str] = []

    def store(entries: Sequence[Settled]) -> list[str]:
        if any(entry.id == "r3" for entry in entries):
            raise error("no")
        stored.extend(entry.id for entry in entries)
        return [entry.id for entry in entries]

    refused: list[tuple[str, type[Exception]]] = []
    with mock.patch.object(drain, "store", store):
        new = drain.store_each([settled(f"r{n}") for n in range(8)], lambda e, x: refused.append((e.id, type(x))))
    assert new == stored == ["r0", "r1", "r2", "r4", "r5", "r6", "r7"]
    assert refused == [("r3", error)]


@pytest.mark.parametrize("error", [OperationalError, IntegrityError])
def test_a_database_that_is_away_or_broken_refuses_nobody(error: type[Exception]) -> None:
    with mock.patch.object(drain, "store", side_effect=error), pytest.raises(error):
        drain.store_each([settled("a"), settled("b")], no_reject)


@pytest.mark.django_db(transaction=True)
def test_a_missing_table_is_waited_for(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.append(WHOLE)
    with connection.schema_editor() as editor:
        editor.delete_model(UsageRecord)
    try:
        assert journal.drain() == 0
    finally:
        with connection.schema_editor() as editor:
            editor.create_model(UsageRecord)
    assert journal.drain() == 1
    assert UsageRecord.objects.get().id == "r1"
    assert list(tmp_path.iterdir()) == [journal.path]
    journal.close()


@pytest.mark.postgres
def test_postgresql_passes_all_of_this_too(postgres_url: str) -> None:
    check_on_postgresql(__file__, postgres_url)
