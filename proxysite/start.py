"""Why this process must not serve: said before the first request, whichever server it is that starts."""

from django.conf import settings

from providers import keys, overlay
from providers.configfile import ConfigError
from proxysite.env import Problem

SQLITE = "django.db.backends.sqlite3"


def problems() -> tuple[Problem, ...]:
    """None in development, whose own warnings say it."""
    if settings.DEBUG:
        return ()
    secrets = settings.SECRETS.problems
    return (*secrets, *database_problems(), *alert_problems(), *capture_problems(), *configuration_problems())


def database_problems() -> tuple[Problem, ...]:
    """A SQLite file on Lambda is one for each environment, and dies with it."""
    if settings.ON_LAMBDA and settings.DATABASES["default"]["ENGINE"] == SQLITE:
        hint = "Name a PostgreSQL database, or leave it out: the stateless mode needs none."
        return (Problem("DATABASE_URL", "is a SQLite file, which AWS Lambda does not keep", hint),)
    return ()


def alert_problems() -> tuple[Problem, ...]:
    """A threshold that cannot be read would be found by no spending."""
    if not settings.GATEWAY_ALERT_VELOCITY:
        return ()
    from gateway.alerts import velocity

    try:
        velocity(settings.GATEWAY_ALERT_VELOCITY)
    except ValueError as error:
        return (Problem("GATEWAY_ALERT_VELOCITY", f"is not usable: {error}", "An amount and a time: 5.00/10m."),)
    return ()


def capture_problems() -> tuple[Problem, ...]:
    """A rule that cannot be used would leave what it is for in what is kept."""
    if not settings.GATEWAY_CAPTURE_PATTERNS:
        return ()
    from ledger.redaction import BadPattern, compiled

    try:
        compiled(settings.GATEWAY_CAPTURE_PATTERNS)
    except BadPattern as error:
        return (Problem("GATEWAY_CAPTURE_PATTERNS", f"is not usable: {error}", "One pattern of RE2 a line."),)
    return ()


def configuration_problems() -> tuple[Problem, ...]:
    """Keys that anyone can guess; and without a database, where nothing else is configured, all that is wrong."""
    fresh = f"Take one that was made just now: {keys.mint().token}"
    try:
        found = overlay.load()
    except ConfigError as error:
        # With a database the last good rows serve on, and the log says what is wrong.
        wrong = error.problems if settings.GATEWAY_STATELESS else ()
        return tuple(Problem("The configuration", f"cannot be used: {line}", "") for line in wrong)
    weak = tuple(Problem(problem.place, problem.wrong, fresh) for problem in found.problems if problem.weak)
    if settings.GATEWAY_STATELESS and not found.keys and not weak:
        if found.problems:
            return tuple(Problem(problem.place, problem.wrong, "") for problem in found.problems)
        return (Problem(overlay.PROXY_KEY, "is not set, so that nobody could be let in", fresh),)
    return weak
