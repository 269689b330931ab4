import json
from datetime import timedelta
from io import StringIO

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone
from pytest_django import Settings

from providers import keys
from providers.models import ClientKey
from providers.overlay_checks import check_defaults

pytestmark = pytest.mark.django_db


def run(*args: str) -> str:
    out = StringIO()
    call_command(*args, stdout=out, skip_checks=True)
    return out.getvalue()


def test_a_key_is_created_and_shown_once() -> None:
    token, line, _ = run("create_client_key", "web-app").splitlines()
    row = ClientKey.objects.get()
    assert keys.parse(token) == keys.Parsed("sk", row.id)
    assert ClientKey.objects.with_token(token) == row
    assert line == f"Its id is {row.id}. The key is not kept, and is shown this once."
    assert (row.name, row.aliases, row.enabled) == ("web-app", ["*"], True)


def test_s46_a_new_key_has_a_rate_a_budget_and_an_end_and_the_command_says_so(settings: Settings) -> None:
    said = run("create_client_key", "web-app").splitlines()[-1]
    row = ClientKey.objects.get()
    assert (row.rpm, row.budget) == (600, "50/month")
    assert row.expires_at is not None
    assert abs(row.expires_at - timezone.now() - timedelta(days=365)) < timedelta(minutes=1)
    end = f"{row.expires_at:%Y-%m-%d %H:%M}"
    assert said == f"It may make 600 requests a minute and cost 50/month (US dollars), and ends on {end} UTC."
    settings.GATEWAY_DEFAULT_RPM, settings.GATEWAY_DEFAULT_BUDGET = 60, "1/day"
    run("create_client_key", "other")
    assert ClientKey.objects.filter(name="other", rpm=60, budget="1/day").exists()


def test_what_a_new_key_has_can_be_left_out_one_by_one() -> None:
    bounds = ("--rpm", "0", "--budget", "none", "--expires", "never")
    said = run("create_client_key", "web-app", *bounds).splitlines()[-1]
    row = ClientKey.objects.get()
    assert (row.rpm, row.budget, row.expires_at) == (0, "", None)
    assert said == "It may make any number of requests a minute and cost any amount, and does not expire."


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("RPM", -1, "must be a whole number"),
        ("BUDGET", "50", "50 has no period"),
        ("EXPIRES", "1y", "1y is no span of time"),
    ],
)
def test_defaults_that_no_key_can_have_are_named_before_a_key_is_made(
    settings: Settings, name: str, value: object, says: str
) -> None:
    setattr(settings, f"GATEWAY_DEFAULT_{name}", value)
    [error] = check_defaults()
    assert (error.id, f"GATEWAY_DEFAULT_{name}: {says}" in error.msg) == ("providers.E003", True)
    with pytest.raises(CommandError, match=f"No key was created: GATEWAY_DEFAULT_{name}: {says}"):
        run("create_client_key", "web-app")
    assert not ClientKey.objects.exists()


def test_json_is_one_object_with_id_and_key() -> None:
    printed = json.loads(run("create_client_key", "web-app", "--json"))
    assert list(printed) == ["id", "key"]
    assert ClientKey.objects.with_token(printed["key"]) == ClientKey.objects.by_id(printed["id"])


@pytest.mark.parametrize(
    ("span", "length"),
    [
        ("90s", timedelta(seconds=90)),
        ("5m", timedelta(minutes=5)),
        ("12h", timedelta(hours=12)),
        ("30d", timedelta(days=30)),
        ("2w", timedelta(weeks=2)),
    ],
)
def test_a_key_has_the_aliases_and_the_end_that_were_asked_for(span: str, length: timedelta) -> None:
    run("create_client_key", "web", "--alias", "fast", "--alias", "mistral/*", "--expires", span)
    row = ClientKey.objects.get()
    assert row.aliases == ["fast", "mistral/*"]
    assert row.expires_at is not None
    assert abs(row.expires_at - timezone.now() - length) < timedelta(seconds=30)


@pytest.mark.parametrize("span", ["30", "d", "0d", "-1d", "1.5h", "30 d", "1y", "9999999d"])
def test_what_is_no_span_is_refused(span: str) -> None:
    with pytest.raises(CommandError) as caught:
        run("create_client_key", "web", f"--expires={span}")
    assert str(caught.value).startswith(f"--expires {span} is no span of time")
    assert not ClientKey.objects.exists()


def test_an_existing_key_is_taken_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLD_KEY", "My API Key")
    line, bounds = run("create_client_key", "web", "--existing-key-env", "OLD_KEY").splitlines()
    row = ClientKey.objects.get()
    assert line == f"The key in OLD_KEY is valid here from now on. Its id is {row.id}."
    assert bounds.startswith("It may make 600 requests a minute and cost 50/month (US dollars), and ends on 20")
    assert ClientKey.objects.with_token("My API Key") == row
    assert row.foreign
    with pytest.raises(CommandError, match=r"No key was created: that key is known already, as 'web'"):
        run("create_client_key", "again", "--existing-key-env", "OLD_KEY", "--json")


def test_an_existing_key_with_json_prints_the_same_object(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLD_KEY", "My API Key")
    printed = json.loads(run("create_client_key", "web", "--existing-key-env", "OLD_KEY", "--json"))
    assert printed == {"id": ClientKey.objects.get().id, "key": "My API Key"}


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["web", "--existing-key-env", "NOT_THERE"], "the environment variable NOT_THERE is not set"),
        ([" "], "a key's name has 1 to 100 characters"),
        (["x" * 101], "a key's name has 1 to 100 characters"),
        (["web", "--alias", "a*b"], "'a*b' has a * before its end"),
    ],
)
def test_what_cannot_be_created_is_refused_with_the_reason(args: list[str], message: str) -> None:
    with pytest.raises(CommandError) as caught:
        run("create_client_key", *args)
    assert str(caught.value).startswith("No key was created: ")
    assert message in str(caught.value)
    assert not ClientKey.objects.exists()


def test_a_revoked_key_stays_as_a_disabled_row() -> None:
    row, _ = ClientKey.objects.mint("web")
    assert run("revoke_client_key", row.id) == f"The key web ({row.id}) is revoked.\n"
    row.refresh_from_db()
    assert not row.enabled
    assert json.loads(run("revoke_client_key", row.id, "--json")) == {"id": row.id, "enabled": False}


def test_an_id_that_nobody_has_cannot_be_revoked() -> None:
    with pytest.raises(CommandError, match="There is no client key with the id nobody"):
        run("revoke_client_key", "nobody")


def test_a_dry_run_makes_no_key_and_says_why_it_cannot_be_made() -> None:
    assert json.loads(run("create_client_key", "web", "--dry-run", "--json")) == {
        "id": None,
        "key": None,
        "dry_run": True,
    }
    assert run("create_client_key", "web", "--rpm", "7", "--dry-run").startswith(
        "Nothing was created. It may make 7 requests a minute"
    )
    with pytest.raises(CommandError, match="No key was created: there is no team named 'nobody'"):
        run("create_client_key", "web", "--team", "nobody", "--dry-run")
    assert not ClientKey.objects.exists()
    assert not ClientKey.history.exists()


def test_a_dry_run_revokes_nothing() -> None:
    row, _ = ClientKey.objects.mint("web")
    said = json.loads(run("revoke_client_key", row.id, "--dry-run", "--json"))
    assert said == {"id": row.id, "enabled": True, "dry_run": True}
    assert run("revoke_client_key", row.id, "--dry-run") == f"The key web ({row.id}) would be revoked.\n"
    row.refresh_from_db()
    assert row.enabled


@pytest.mark.parametrize("span", ["999999w", "999999d"])
def test_a_span_that_ends_after_the_calendar_is_refused(span: str, settings: Settings) -> None:
    with pytest.raises(CommandError, match=f"--expires {span} is longer than 36525 days"):
        run("create_client_key", "web", "--expires", span)
    settings.GATEWAY_DEFAULT_EXPIRES = span
    [error] = check_defaults()
    assert span in error.msg
