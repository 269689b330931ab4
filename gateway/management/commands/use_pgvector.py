"""`manage.py use_pgvector`: have PostgreSQL compare the questions of semantic caches, where it has pgvector now."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError

from gateway.caching import pgvector


class Command(BaseCommand):
    help = (
        "Have PostgreSQL compare the questions of aliases with cache_semantic: makes the extension pgvector, where the "
        "database's role may, its column, and fills in what is kept already. Processes that serve notice within a "
        "minute. Migrations do the same where pgvector is there by then; this may be run at any time, and again."
    )

    def handle(self, *args: Any, **options: Any) -> None:
        if missing := pgvector.prepare():
            raise CommandError(f"{missing} Questions are compared by the gateway's processes, as before.")
        where, filled = pgvector.schema(), 0
        assert where is not None
        while count := pgvector.fill(where):
            filled += count
        self.stdout.write(f"PostgreSQL compares the questions. {filled} that were kept before are filled in.")
