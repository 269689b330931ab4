"""`manage.py export_config`: the rows as a configuration file, without any secret."""

from typing import Any

import yaml
from django.core.management.base import BaseCommand

from providers.sync import Rows, document


class Command(BaseCommand):
    help = "Print providers, aliases and client key settings as YAML; secrets only as references."

    def handle(self, *args: Any, **options: Any) -> None:
        rows = Rows()
        self.stdout.write(yaml.safe_dump(document(rows.views()), sort_keys=True, allow_unicode=True), ending="")
        for path in rows.sealed():
            self.stderr.write(f"{path} is stored encrypted and is not exported.")
        for name in sorted(rows.ambiguous_keys):
            self.stderr.write(f"keys.{name} is not exported: several client keys have this name.")
