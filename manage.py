#!/usr/bin/env python
"""Django's command line, with the one rule that decides between development and production."""

import os
import sys

from proxysite import env


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "proxysite.settings")
    command = sys.argv[1] if len(sys.argv) > 1 else ""
    if env.is_development_command(command):
        os.environ.setdefault("DJANGO_DEBUG", "1")

    serving = command in env.PRODUCTION_COMMANDS and not env.flag("DJANGO_DEBUG", default=False)
    # Before Django, whose import takes longer than a supervisor should wait for a start that cannot succeed.
    if serving and not env.stateless() and (problems := env.load_secrets(development=False).problems):
        sys.exit(env.refusal(problems))

    from django.core.management import execute_from_command_line

    execute_from_command_line(sys.argv)


if __name__ == "__main__":
    main()
