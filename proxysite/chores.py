"""What is asked of the program by a direct invocation and not over HTTP: management commands, and the daily upkeep.

Nobody can send such an event over HTTP, and who may invoke the function directly is IAM's decision.
"""

import io
import json
from collections.abc import Sequence
from typing import Any

import structlog
from asgiref.sync import sync_to_async
from django.conf import settings
from django.core.management import CommandError, call_command, get_commands
from django.db import connection

ALLOWED = frozenset(
    {
        *("migrate", "check", "create_admin", "clearsessions"),
        *("create_client_key", "rotate_client_key", "revoke_client_key", "explain"),
        *("rotate_encryption_key", "rotate_pepper", "rotate_provider_credential"),
        *("import_config", "diff_config", "export_config", "prune_usage", "prune_payloads", "rebuild_rollups"),
    }
)
# Run by the schedule, in this order. How long usage is kept is the operator's to say: {"manage": ["prune_usage", ...]}.
UPKEEP = ("clearsessions", "prune_payloads")
MIGRATION_LOCK = 0x6C6C6D67  # two deployments at a time migrate one after the other

log = structlog.get_logger("chores")


class Refused(Exception):
    """The event asks for what is not there, or not allowed."""


async def answer(event: Any) -> dict[str, Any]:
    """`{"manage": [COMMAND, ...]}` and EventBridge's schedule: what came of it, as JSON; never raises for a refusal."""
    try:
        if settings.GATEWAY_STATELESS:
            raise Refused("There is no database here: set DATABASE_URL first.")
        if isinstance(event, dict) and "manage" in event:
            return await sync_to_async(manage)(event["manage"])
        if isinstance(event, dict) and event.get("source") == "aws.events":
            return await sync_to_async(upkeep)()
        raise Refused('This is neither a request nor {"manage": [...]} nor a scheduled event.')
    except (Refused, CommandError) as error:
        return {"ok": False, "error": str(error)}


def manage(arguments: Any) -> dict[str, Any]:
    """Run one management command; its output, as `result` where it is one JSON value."""
    if not isinstance(arguments, list) or not arguments or not all(isinstance(part, str) for part in arguments):
        raise Refused('Give a list of texts, such as {"manage": ["migrate", "--noinput"]}.')
    name = arguments[0]
    if name not in ALLOWED:
        raise Refused(
            f"{name!r} may not be run this way; there are {', '.join(sorted(ALLOWED & set(get_commands())))}."
        )
    output = run(name, arguments[1:])
    log.info("command_run", command=name)
    try:
        return {"ok": True, "result": json.loads(output)}
    except ValueError:
        return {"ok": True, "output": output}


def run(name: str, arguments: Sequence[str]) -> str:
    """Raises CommandError for a command's refusal, a wrong argument or an unknown name."""
    out = io.StringIO()
    locking = name == "migrate" and connection.vendor == "postgresql"
    try:
        if locking:
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_advisory_lock(%s)", [MIGRATION_LOCK])
        call_command(name, *arguments, stdout=out, stderr=out, no_color=True)
    except SystemExit as exc:
        raise CommandError(f"{name} ended with status {exc.code}: {out.getvalue()}") from None
    finally:
        # The lock goes with its connection, and no other one may come back into use with it.
        connection.close()
    return out.getvalue()


def upkeep() -> dict[str, Any]:
    """Rows that were left open become `lost`; the commands of UPKEEP."""
    from ledger import openrows

    done: dict[str, Any] = {"lost": openrows.lose()}
    failed = []
    for name in (name for name in UPKEEP if name in get_commands()):
        try:
            done[name] = run(name, ())
        except Exception:
            log.exception("upkeep_failed", command=name)
            failed.append(name)
    log.info("upkeep", **done)
    return {"ok": not failed, "done": done, "failed": failed}
