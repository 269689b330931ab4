"""GATEWAY_EMAIL_URL, as whichever Django it is sends by it."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.proxysite.commands import ROOT, environment

OPEN = """
import django
django.setup()
from django.core import mail
server = mail.get_connection() if django.VERSION < (6, 1) else mail.mailers.default
"""
TELL = (
    "print(server.host, server.port, server.username, server.password, server.use_tls, server.use_ssl, server.timeout)"
)
SEND = "mail.send_mail('An alert', 'Spent.', None, ['ops@example.org'])"


def run(folder: Path, url: str, code: str) -> str:
    values = {"DJANGO_DEBUG": "1", "DJANGO_SETTINGS_MODULE": "proxysite.settings"}
    given = environment(folder, {**values, "GATEWAY_EMAIL_URL": url} if url else values)
    command = [sys.executable, "-W", "error", "-c", OPEN + code]
    done = subprocess.run(command, cwd=ROOT, env=given, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("", "localhost 25 None None False False 10"),
        ("smtp+tls://ann:p%40ss@mail.example.org:587", "mail.example.org 587 ann p@ss True False 10"),
        ("smtp+ssl://mail.example.org:465", "mail.example.org 465 None None False True 10"),
    ],
)
def test_a_mail_server_is_spoken_to_as_its_url_says(tmp_path: Path, url: str, expected: str) -> None:
    assert run(tmp_path, url, TELL) == expected


def test_mail_can_go_into_a_folder(tmp_path: Path) -> None:
    run(tmp_path, f"filemail:///{tmp_path}/mail", SEND)
    (written,) = (tmp_path / "mail").iterdir()
    assert "To: ops@example.org" in written.read_text()
