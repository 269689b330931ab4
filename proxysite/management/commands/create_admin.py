"""`manage.py create_admin`: a superuser with a password that is made here, shown once and kept nowhere."""

import json
import secrets
from typing import Any

from django.contrib.auth import get_user_model
from django.core.management.base import BaseCommand, CommandError, CommandParser


class Command(BaseCommand):
    help = "Make a user of the admin who may do everything, with a fresh password."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("name", nargs="?", default="admin")
        parser.add_argument("--reset", action="store_true", help="a new password for a user that is there")
        parser.add_argument("--json", action="store_true", help="print one JSON object")

    def handle(self, *args: Any, **options: Any) -> None:
        name, password = options["name"], secrets.token_urlsafe(15)
        users = get_user_model().objects
        user = users.filter(username=name).first()
        if user is None:
            users.create_superuser(name, password=password)
        elif options["reset"]:
            user.set_password(password)
            user.save(update_fields=["password"])
        else:
            raise CommandError(f"There is a user {name!r} already; --reset gives it a new password.")
        if options["json"]:
            self.stdout.write(json.dumps({"user": name, "password": password}))
        else:
            self.stdout.write(f"User {name}, password {password}\n")
