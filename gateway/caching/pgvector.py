"""Questions that PostgreSQL compares itself, where it has pgvector: a column beside the vectors that are kept anyway.

https://github.com/pgvector/pgvector. The column names no number of dimensions, since every embedding model has its own,
and it has no index: a place has a thousand rows at most, which an exact scan reads in milliseconds, while an index
finds some of the nearest of all places and would leave those of this place to chance. What is not there yet (another
process may be older, or the extension may have come later) is filled in from the bytes beside it.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import structlog
from django.db import Error, connection, transaction

from gateway.caching import vectors
from gateway.caching.vectors import Direction, NoVector

log = structlog.get_logger("gateway")

WAIT = 0.5  # seconds that a request waits for the answer
REST = 5.0  # seconds without a try after a failure
LOOK_EVERY = 60.0  # seconds between two looks for a column that may have come
FILL_ROWS = 100  # in one job: other statements wait for it

Run = Callable[..., Awaitable[Any]]


class Column:
    """What a process knows of the column. `run` gives a job to the SQL thread."""

    def __init__(self, run: Run, clock: Callable[[], float]) -> None:
        self._run, self._clock = run, clock
        self._schema: str | None = None  # the extension's; None: the database does not compare
        self._looked_at = self._rest_until = float("-inf")

    @property
    def compares(self) -> bool:
        return self._schema is not None

    @property
    def resting(self) -> bool:
        return self._clock() < self._rest_until

    async def nearest(
        self, place: bytes, wanted: Direction, now: float, most: int
    ) -> list[tuple[bytes, Direction]] | None:
        """Answers by name with their questions, nearest first; None where the database does not compare, or not now."""
        if self.resting:
            return None
        try:
            async with asyncio.timeout(WAIT):
                await self.look()
                if self._schema is None:
                    return None
                found: list[tuple[bytes, Direction]] = await self._run(
                    _nearest, self._schema, place.hex(), wanted, now, most
                )
                return found
        except Exception as error:  # whatever keeps the database from it, the gateway compares what it knows
            log.warning("meanings_not_compared", error=type(error).__name__)
            self._rest_until = self._clock() + REST
            self._forget()
            return None

    async def look(self) -> None:
        """Whether the column is there; once a minute, as long as it is not."""
        if self._schema is None and self._clock() - self._looked_at >= LOOK_EVERY:
            self._looked_at = self._clock()
            self._schema = await self._run(schema)

    async def fill(self) -> None:
        """Called off every request's way. Raises what the database raises."""
        await self.look()
        try:
            while self._schema is not None and await self._run(fill, self._schema) == FILL_ROWS:
                pass
        except Exception:
            self._forget()
            raise

    def _forget(self) -> None:
        # It may have been taken away.
        self._schema, self._looked_at = None, float("-inf")


def schema() -> str | None:
    """The schema of the column's type; None where there is no such column, or no PostgreSQL."""
    if connection.vendor != "postgresql":
        return None
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT n.nspname FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid"
            " JOIN pg_namespace n ON n.oid = t.typnamespace"
            " WHERE a.attrelid = to_regclass('gateway_keptquestion') AND a.attname = 'direction'"
            " AND t.typname = 'vector'"
        )
        row = cursor.fetchone()
    return None if row is None else str(row[0])


def prepare() -> str:
    """Make the extension, where it may be made, and the column; returns "", or why there is none. Changes no row."""
    if connection.vendor != "postgresql":
        return "The database is no PostgreSQL."
    try:
        if _extension() is None:
            with transaction.atomic(), connection.cursor() as cursor:
                cursor.execute("CREATE EXTENSION IF NOT EXISTS vector")
        _add_column(str(_extension()))
    except Error as error:
        return f"PostgreSQL did not let it: {str(error).partition(chr(10))[0]}."
    return ""


def _add_column(where: str) -> None:
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(f"ALTER TABLE gateway_keptquestion ADD COLUMN IF NOT EXISTS direction {_type(where)}")
        # Numbers that are near to random: PostgreSQL would try in vain to make them smaller.
        cursor.execute("ALTER TABLE gateway_keptquestion ALTER COLUMN direction SET STORAGE EXTERNAL")
        cursor.execute(
            "CREATE INDEX IF NOT EXISTS gateway_question_empty ON gateway_keptquestion (id) WHERE direction IS NULL"
        )


def remove() -> None:
    """Take the column away; the extension stays."""
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("ALTER TABLE gateway_keptquestion DROP COLUMN IF EXISTS direction")


def fill(where: str) -> int:
    """Fill in what is not there yet, of FILL_ROWS rows at most; how many there were."""
    with transaction.atomic(), connection.cursor() as cursor:
        # In one order, and not those that another process is filling.
        cursor.execute(
            "SELECT id, vector FROM gateway_keptquestion WHERE direction IS NULL"
            " ORDER BY id LIMIT %s FOR UPDATE SKIP LOCKED",
            [FILL_ROWS],
        )
        rows = cursor.fetchall()
        good, bad = [], []
        for name, data in rows:
            try:
                good.append((_text(vectors.from_bytes(bytes(data))), name))
            except NoVector:
                bad.append((name,))
        if good:
            statement = f"UPDATE gateway_keptquestion SET direction = %s::{_type(where)} WHERE id = %s"  # noqa: S608
            cursor.executemany(statement, good)
        if bad:
            cursor.executemany("DELETE FROM gateway_keptquestion WHERE id = %s", bad)
    return len(rows)


def _nearest(where: str, place: str, wanted: Direction, now: float, most: int) -> list[tuple[bytes, Direction]]:
    # The schema's name is the catalog's, quoted; everything else is a parameter.
    statement = (
        "SELECT answer, vector FROM gateway_keptquestion WHERE place = %s AND expires_at > %s"  # noqa: S608
        f" AND {_quoted(where)}.vector_dims(direction) = %s"
        f" ORDER BY direction OPERATOR({_quoted(where)}.<=>) %s::{_type(where)}, at DESC LIMIT %s"
    )
    with connection.cursor() as cursor:
        cursor.execute(statement, [place, now, len(wanted.numbers), _text(wanted), most])
        rows = cursor.fetchall()
    found = []
    for answer, data in rows:
        try:
            found.append((bytes.fromhex(answer), vectors.from_bytes(bytes(data))))
        except ValueError:  # another hand's
            continue
    return found


def _extension() -> str | None:
    """The schema in which it is."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT n.nspname FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace"
            " WHERE e.extname = 'vector'"
        )
        row = cursor.fetchone()
    return None if row is None else str(row[0])


def _type(where: str) -> str:
    return f"{_quoted(where)}.vector"


def _quoted(name: str) -> str:
    # https://www.postgresql.org/docs/current/sql-syntax-lexical.html#SQL-SYNTAX-IDENTIFIERS
    return '"' + name.replace('"', '""') + '"'


def _text(wanted: Direction) -> str:
    return "[" + ",".join(map(repr, wanted.numbers.tolist())) + "]"
