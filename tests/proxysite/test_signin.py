"""Guessing an operator's password."""

import re
import threading
from typing import Any

import pytest
import time_machine
from django.contrib.auth.models import User
from django.db import connections
from django.test import Client
from pytest_django import Settings

from proxysite.signin import address

pytestmark = pytest.mark.django_db
THROTTLED = "Too many attempts to sign in. Try again in"
WRONG = "Please enter the correct username and password for a staff account"
NOON = 1_800_000_000


@pytest.fixture(autouse=True)
def clock() -> Any:
    with time_machine.travel(NOON, tick=False) as moved:
        yield moved


def attempt(username: str, password: str, source: str, **headers: str) -> str:
    """What the page says: "" where the attempt has succeeded."""
    data = {"username": username, "password": password}
    response = Client().post("/admin/login/?next=/admin/", data, REMOTE_ADDR=source, headers=headers)
    if response.status_code == 302:
        return ""
    (said,) = re.findall(r'<p class="errornote">\s*(.*?)\s*</p>', response.content.decode(), re.DOTALL)
    return str(said)


def test_s22_a_thousand_guesses_from_fifty_addresses_are_ten_at_one_account() -> None:
    User.objects.create_superuser("root", password="right-Password-1")
    said = [attempt("Root" if n % 2 else "root", f"guess-{n}", f"192.0.2.{n % 50}") for n in range(200)]
    assert sum(WRONG in text for text in said) <= 10
    assert sum(THROTTLED in text for text in said) >= 190
    assert THROTTLED in attempt("root", "right-Password-1", "192.0.2.200")


def test_s22_one_address_has_ten_guesses_at_all_accounts_together() -> None:
    said = [attempt(f"user{n}", "guess", f"2001:db8::{n:x}") for n in range(40)]
    assert sum(WRONG in text for text in said) <= 10
    assert WRONG in attempt("other", "guess", "2001:db8:0:1::1")


def test_s22_nothing_tells_an_account_that_exists_from_one_that_does_not() -> None:
    User.objects.create_superuser("root", password="right-Password-1")
    for name, net in (("root", 1), ("nobody", 2)):
        said = [attempt(name, "guess", f"198.51.{net}.{n}") for n in range(12)]
        assert [WRONG in text for text in said] == [True] * 5 + [False] * 7


def test_s22_after_the_window_the_account_may_try_again(clock: Any) -> None:
    User.objects.create_superuser("root", password="right-Password-1")
    while THROTTLED not in (said := attempt("root", "guess", "192.0.2.1")):
        pass
    left = int(said.removeprefix(THROTTLED).split()[0])
    clock.shift((left - 1) * 60)
    assert attempt("root", "guess", "192.0.2.1").endswith("in 1 minute.")
    clock.shift(60)
    assert attempt("root", "right-Password-1", "192.0.2.1") == ""


@pytest.mark.django_db(transaction=True)
def test_s22_parallel_guesses_are_counted_one_by_one() -> None:
    said: list[str] = []

    def guess(n: int) -> None:
        said.append(attempt("root", "guess", f"203.0.113.{n}"))
        connections.close_all()

    threads = [threading.Thread(target=guess, args=(n,)) for n in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(WRONG in text for text in said) == 5
    assert sum(THROTTLED in text for text in said) == 7


@pytest.mark.parametrize(
    ("hops", "forwarded", "seen"),
    [
        (0, "198.51.100.1", "192.0.2.9"),
        (1, "203.0.113.66, 198.51.100.1", "198.51.100.1"),
        (2, "203.0.113.66, 198.51.100.1, 10.0.0.1", "198.51.100.1"),
        (2, "198.51.100.1", "192.0.2.9"),
        (1, "junk", "192.0.2.9"),
        (1, "198.51.100.1:4711", "198.51.100.1"),
        (1, "[2001:db8::1]:443", "2001:db8::/64"),
        (1, "::ffff:198.51.100.1", "198.51.100.1"),
    ],
)
def test_s21_an_address_that_the_browser_wrote_itself_is_not_counted(
    rf: Any, settings: Settings, hops: int, forwarded: str, seen: str
) -> None:
    settings.GATEWAY_TRUSTED_PROXY_HOPS = hops
    assert address(rf.post("/", REMOTE_ADDR="192.0.2.9", headers={"x-forwarded-for": forwarded})) == seen
