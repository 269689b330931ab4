"""`manage.py rotate_encryption_key`: seal every stored credential with the first key of GATEWAY_ENCRYPTION_KEYS."""

import base64
import json
import secrets
from typing import Any

from django.core.management.base import CommandError, CommandParser

from gateway.limits.store import Store
from providers import awscalls, keychain, reseal
from providers.audit import ActingCommand
from providers.vault import VaultError

STEPS = """\
1. --generate prints a key; nothing is stored.
2. Put it first in GATEWAY_ENCRYPTION_KEYS, the old one behind it, and restart every process with that.
3. --rewrap seals everything with it, once every process that serves has it; run it again if it was stopped.
4. --verify ends with 0 once nothing is under another key.
5. Take the old key out of the list. A backup from before needs it still."""


class Command(ActingCommand):
    help = f"Seal the stored credentials with a new encryption key. {STEPS}"

    def add_arguments(self, parser: CommandParser) -> None:
        step = parser.add_mutually_exclusive_group(required=True)
        step.add_argument("--generate", metavar="ID", help="print a new entry for GATEWAY_ENCRYPTION_KEYS")
        parser.add_argument("--kms", metavar="KEY", help="with --generate: let this key of AWS KMS make and wrap it")
        step.add_argument("--status", action="store_true", help="count the sealed values by key")
        step.add_argument("--rewrap", action="store_true", help="seal everything with the first key")
        step.add_argument("--verify", action="store_true", help="the same as --status, but ends with 1 if any is left")
        parser.add_argument("--dry-run", action="store_true", help="with --rewrap: only say what is left")
        parser.add_argument("--json", action="store_true", help="print one JSON object")

    def handle(self, *args: Any, **options: Any) -> None:
        if options["generate"]:
            self._generate(options["generate"], options["kms"], as_json=options["json"])
            return
        without = without_key() if options["rewrap"] or options["status"] else []
        if without and options["rewrap"]:
            raise CommandError(
                f"Nothing was sealed: {len(without)} of the processes that serve lack the key {reseal.primary()}, and "
                f"could not open what is sealed with it: {', '.join(without)}. Restart them with this "
                "GATEWAY_ENCRYPTION_KEYS. One that has ended counts for ten seconds."
            )
        try:
            done = reseal.rewrap() if options["rewrap"] and not options["dry_run"] else 0
            found, primary = reseal.status(), reseal.primary()
        except VaultError as error:
            raise CommandError(str(error)) from None
        left = list(reseal.unfinished(found))
        if options["json"]:
            said = {"key": primary, "counts": dict(found.counts), "rewrapped": done, "closed": found.closed}
            self.stdout.write(json.dumps(said | {"without_key": without}))
        else:
            self.stdout.write(f"{found.counts[primary]} sealed with the key {primary}, {done} of them now.")
            self.stdout.write("\n".join(left) if left else "Nothing is under another key. Old backups need theirs.")
            if without:
                self.stdout.write(f"Processes that lack the key {primary}: {', '.join(without)}.")
        if left and not options["status"]:
            raise SystemExit(1)

    def _generate(self, key_id: str, kms_key: str | None, *, as_json: bool) -> None:
        if not key_id.isalnum() or key_id in reseal.ring():
            raise CommandError(f"{key_id} is in use, or no id of letters and digits.")
        try:
            wrapped = kms_key and keychain.wrapped_entry(key_id, kms_key)
        except awscalls.CallFailed as error:
            raise CommandError(str(error)) from None
        entry = wrapped or f"{key_id}:{base64.b64encode(secrets.token_bytes(32)).decode()}"
        self.stdout.write(json.dumps({"entry": entry}) if as_json else entry)


def without_key() -> list[str]:
    """The processes that serve and have not said that they have the key that is written with."""
    try:
        key_id = reseal.primary()
    except VaultError as error:
        raise CommandError(str(error)) from None
    return [process for process, ids in Store("").living().items() if key_id not in ids]
