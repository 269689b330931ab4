"""R29: wherever the write-ahead log is cut off, what is left is whole: rows, totals and budgets say the same."""

import random
import shutil
import sqlite3
from contextlib import closing
from decimal import Decimal
from pathlib import Path

import pytest
from django.db import connection

from ledger import drain, leases
from ledger.budgets import place_of
from ledger.entries import Settled
from ledger.money import units
from providers.targets import BudgetCard

CUTS = 200
BATCHES = 40
CARD = BudgetCard("key:k1", "key", Decimal(100), "total")
CENT = units(Decimal("0.01"))


def fill() -> None:
    """Forty commits of five rows of a cent each; the first twenty are checkpointed, as an fsync of the database is."""
    place = place_of(CARD, "", 0.0)
    leases.beat("h1")
    assert leases.take(place, "l1", "h1", 5 * CENT, 5 * BATCHES * CENT) >= 5 * BATCHES * CENT
    for batch in range(BATCHES):
        names = [f"r{batch:02}-{number}" for number in range(5)]
        charges = [(place.id, "l1", CENT)]
        drain.store([Settled(name, 1.0, "k1", cost=Decimal("0.01"), charges=charges) for name in names])
        if batch == BATCHES // 2 - 1:
            with connection.cursor() as cursor:
                cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")


@pytest.mark.django_db(transaction=True)
def test_r29_a_log_that_is_cut_at_any_place_leaves_a_database_that_adds_up(tmp_path: Path) -> None:
    fill()
    source = Path(connection.settings_dict["NAME"])
    whole = Path(f"{source}-wal").read_bytes()
    assert len(whole) > 10_000
    chance = random.Random(29)
    counts = set()
    for cut in [0, len(whole), *(chance.randrange(len(whole)) for _ in range(CUTS - 2))]:
        copy = tmp_path / "copy.sqlite3"
        shutil.copyfile(source, copy)
        Path(f"{copy}-wal").write_bytes(whole[:cut])
        Path(f"{copy}-shm").unlink(missing_ok=True)
        with closing(sqlite3.connect(copy)) as lite:
            assert lite.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            names = [name for (name,) in lite.execute("SELECT id FROM ledger_usagerecord ORDER BY id")]
            spent, reserved = lite.execute("SELECT spent, reserved FROM ledger_budgetaccount").fetchone()
            [(lease,)] = lite.execute("SELECT amount FROM ledger_lease").fetchall()
            requests, cost = lite.execute("SELECT SUM(requests), SUM(cost) FROM ledger_dailyrollup").fetchone()
        # Whole batches, from the first on, and all that was there before the checkpoint.
        assert names == [f"r{index // 5:02}-{index % 5}" for index in range(len(names))]
        assert len(names) % 5 == 0
        assert len(names) >= 5 * BATCHES // 2
        assert (spent, cost, requests) == (len(names) * CENT, len(names) * CENT, len(names))
        assert reserved == lease
        counts.add(len(names))
    assert {5 * BATCHES // 2, 5 * BATCHES} <= counts
    assert len(counts) > 10
