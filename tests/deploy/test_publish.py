"""scripts/publish with a command in place of AWS's, which keeps what it was asked."""

import os
import subprocess
from pathlib import Path

from tests.proxysite.commands import ROOT

AWS = """#!/bin/sh
echo "$*" >> "$CALLS"
case "$*" in
    *publish-version*) echo 7 ;;
    *update-alias*) exit "${ALIAS_STATUS:-0}" ;;
esac
"""


def publish(folder: Path, *arguments: str, **values: str) -> tuple[int, str, list[str]]:
    (folder / "aws").write_text(AWS)
    (folder / "aws").chmod(0o755)
    environment = {"PATH": f"{folder}:{os.environ['PATH']}", "CALLS": str(folder / "calls"), **values}
    done = subprocess.run(
        [str(ROOT / "scripts" / "publish"), *arguments], env=environment, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout, (folder / "calls").read_text().splitlines()


def test_the_alias_is_moved_to_a_version_of_a_function_that_has_changed(tmp_path: Path) -> None:
    status, said, calls = publish(tmp_path, "chat")
    assert (status, said) == (0, "chat:live is version 7 now\n")
    changed, waited, published, active, moved = calls
    assert changed.startswith("lambda update-function-configuration --function-name chat --description Published 2")
    assert waited == "lambda wait function-updated --function-name chat"
    assert published.startswith("lambda publish-version --function-name chat ")
    assert active == "lambda wait published-version-active --function-name chat --qualifier 7"
    assert moved == "lambda update-alias --function-name chat --name live --function-version 7"


def test_what_fails_is_not_told_as_done(tmp_path: Path) -> None:
    status, said, _ = publish(tmp_path, ALIAS_STATUS="254")
    assert (status, said) == (254, "")
