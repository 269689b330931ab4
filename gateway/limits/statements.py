"""The texts of the statements with which processes limit together, for SQLite and PostgreSQL."""

# Only constants of this file are put into a text, never a value.
# ruff: noqa: S608

from functools import cache


@cache
def texts(vendor: str, *, server_time: bool) -> dict[str, str]:
    """The statements; no value is put into a text, only these constants are."""
    postgres = vendor == "postgresql"
    now = "extract(epoch FROM clock_timestamp())::float8" if server_time else "%(now)s"
    mine = "clock = %(clock)s"
    live = f"{mine} AND seen > {now} - %(expires)s"
    return {
        "grant": _grant_text(now, once=server_time, floor="FLOOR({})" if postgres else "CAST({} AS INTEGER)"),
        "make": "INSERT INTO gateway_limitbucket (id, tat, clock, granted) "
        f"VALUES (%(bucket)s, {now}, %(clock)s, 0) ON CONFLICT (id) DO NOTHING",
        "correct": f"UPDATE gateway_limitbucket SET tat = CASE WHEN tat > {now} THEN tat ELSE {now} END + %(seconds)s "
        f"WHERE id = %(bucket)s AND {mine}",
        "put": f"UPDATE gateway_limitbucket SET tat = CASE WHEN {mine} AND tat > {now} + %(debt)s THEN tat "
        f"ELSE {now} + %(debt)s END, clock = %(clock)s WHERE id = %(bucket)s",
        "debts": f"SELECT id, tat - {now} FROM gateway_limitbucket WHERE {mine} AND tat > {now}",
        # Rows that another process has locked are not full.
        "prune": "DELETE FROM gateway_limitbucket WHERE id IN (SELECT id FROM gateway_limitbucket "
        f"WHERE tat < {now} OR NOT {mine} LIMIT %(rows)s{' FOR UPDATE SKIP LOCKED' if postgres else ''})",
        "forget": f"DELETE FROM gateway_gatewayprocess WHERE seen < {now} - %(forget)s OR NOT {mine}",
        "unplace": "DELETE FROM gateway_limitplace WHERE process NOT IN (SELECT id FROM gateway_gatewayprocess)",
        "lock": "SELECT pg_advisory_xact_lock(hashtextextended(%(bucket)s, 0))" if postgres else "",
        "held": "SELECT process, held FROM gateway_limitplace WHERE bucket = %(bucket)s AND (process = %(process)s "
        f"OR process IN (SELECT id FROM gateway_gatewayprocess WHERE {live}))",
        "hold": "INSERT INTO gateway_limitplace (id, bucket, process, held) VALUES (%(id)s, %(bucket)s, %(process)s, "
        "%(held)s) ON CONFLICT (id) DO UPDATE SET held = excluded.held",
        "drop": "DELETE FROM gateway_limitplace WHERE id = %(id)s",
        "beat": "INSERT INTO gateway_gatewayprocess (id, seen, clock, mode, key_ids) VALUES (%(process)s, "
        f"{now}, %(clock)s, %(mode)s, %(key_ids)s) ON CONFLICT (id) DO UPDATE SET seen = excluded.seen, "
        "clock = excluded.clock, mode = excluded.mode",
        "living": f"SELECT id, key_ids FROM gateway_gatewayprocess WHERE {live} ORDER BY id",
        "others": f"SELECT id, mode FROM gateway_gatewayprocess WHERE id <> %(process)s AND {live}",
        "leave": "DELETE FROM gateway_gatewayprocess WHERE id = %(process)s",
        "leave_places": "DELETE FROM gateway_limitplace WHERE process = %(process)s",
    }


def _grant_text(now: str, *, once: bool, floor: str) -> str:
    """`once`: the server's time is read in a subquery, so that it is the same throughout the statement."""
    source = f"FROM (SELECT {now} AS now) AS clocked" if once else ""
    now = "clocked.now" if once else now
    base = f"(CASE WHEN clock = %(clock)s AND tat > {now} THEN tat ELSE {now} END)"
    room = f"((%(tolerance)s + {now} - {base}) / %(interval)s)"
    part = f"CASE WHEN {room} < %(step)s * %(share)s THEN {room} / %(share)s ELSE %(step)s END"
    offer = floor.format(part)
    amount = f"(CASE WHEN {room} < %(need)s THEN 0 WHEN {offer} > %(need)s THEN {offer} ELSE %(need)s END)"
    return (
        f"UPDATE gateway_limitbucket SET granted = {amount}, tat = {base} + {amount} * %(interval)s, "
        f"clock = %(clock)s {source} WHERE id = %(bucket)s RETURNING granted, tat - {now}"
    )
