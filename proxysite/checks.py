"""What is wrong with the machine's settings, said before the first request (Django's system checks)."""

from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error

from proxysite import start
from proxysite.env import Problem


def check_secrets(**_: Any) -> list[CheckMessage]:
    """proxysite.E001: a secret is missing, short, published or given twice."""
    problems: tuple[Problem, ...] = () if settings.DEBUG else settings.SECRETS.problems
    return [Error(f"{problem.name} {problem.wrong}.", hint=problem.hint, id="proxysite.E001") for problem in problems]


def check_database(**_: Any) -> list[CheckMessage]:
    """proxysite.E002: a database that the place where the program runs does not keep."""
    found = start.database_problems()
    return [Error(f"{problem.name} {problem.wrong}.", hint=problem.hint, id="proxysite.E002") for problem in found]


def check_alerts(**_: Any) -> list[CheckMessage]:
    """proxysite.E003: alerts that could never be raised."""
    found = start.alert_problems()
    return [Error(f"{problem.name} {problem.wrong}.", hint=problem.hint, id="proxysite.E003") for problem in found]
