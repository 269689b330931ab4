"""Teams, limits, rotation and history, as operators see them."""

import re
from datetime import timedelta

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.utils import timezone
from pytest_django import Settings

from providers.endusers import EndUser
from providers.models import ClientKey, ModelAlias, Provider, Team
from tests.providers.pages import errors, page, url

pytestmark = pytest.mark.django_db
TOKEN = re.compile(r"sk-gw-[0-9A-Za-z]{10}-[0-9A-Za-z]{49}")
LIMITS = {"rpm": "600", "burst": "60", "tpm": "", "concurrency": "5"}


def test_a_team_is_made_with_its_limits_and_its_budget(admin: Client) -> None:
    form = {"name": "web", "enabled": "on", **LIMITS, "budget": "50/month,5.00/day", "budget_alerts": "100, 50%"}
    assert admin.post(url("team_add"), form).status_code == 302
    team = Team.objects.get()
    assert (team.rpm, team.burst, team.tpm, team.concurrency) == (600, 60, 0, 5)
    assert (team.budget, team.budget_alerts) == ("50/month, 5.00/day", [50, 100])


def test_s46_the_form_of_a_new_key_shows_a_rate_a_budget_and_an_end(admin: Client, settings: Settings) -> None:
    text = page(admin.get(url("clientkey_add")))
    assert re.search(r'name="rpm" value="600"', text)
    assert re.search(r'name="budget" value="50/month"', text)
    end = timezone.now() + timedelta(days=365)
    assert re.search(rf'name="expires_at_0" value="{end:%Y-%m-%d}"', text)
    settings.GATEWAY_DEFAULT_RPM, settings.GATEWAY_DEFAULT_EXPIRES = 0, "never"
    text = page(admin.get(url("clientkey_add")))
    assert not re.search(r'name="rpm" value="[1-9]', text)
    assert not re.search(r'name="expires_at_0" value=', text)


def test_a_new_key_has_what_the_form_says(admin: Client) -> None:
    team = Team.objects.create(name="web")
    form = {
        "name": "app",
        "aliases": "fast",
        "team": team.id,
        **LIMITS,
        "endpoints": ["embeddings"],
        "max_tokens": "100",
        "cidrs": "192.0.2.7/24\n2001:db8::/32\n",
        "budget": "5.00/month",
        "tags": '{"cost_centre": "4711"}',
        "unknown_price": "0.05",
        "end_user_rpm": "6",
        "end_user_budget": "1/day",
    }
    page(admin.post(url("clientkey_add"), form))
    row = ClientKey.objects.get()
    assert (row.team, row.rpm, row.burst, row.tpm, row.concurrency) == (team, 600, 60, 0, 5)
    assert (row.endpoints, row.max_tokens, row.max_n) == (["embeddings"], 100, None)
    assert row.cidrs == ["192.0.2.0/24", "2001:db8::/32"]
    assert (row.budget, row.tags, row.unknown_price) == ("5.00/month", {"cost_centre": "4711"}, "0.05")
    assert (row.end_user_rpm, row.end_user_tpm, row.end_user_budget) == (6, 0, "1/day")
    shown = page(admin.get(url("clientkey_change", row.id)))
    assert "192.0.2.0/24\n2001:db8::/32" in shown
    assert 'value="embeddings" id="id_endpoints_2" checked' in shown


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("rpm", "-1", "Ensure this value is greater than or equal to 0."),
        ("budget", "5.00", "5.00 has no period: write an amount and a period, such as 5.00/month, 1/day, 100/total."),
        ("budget", "0/day", "0 is no amount of US dollars such as 5.00."),
        ("budget", "1/day, 2/day", "There are two budgets for the period day."),
        ("budget_alerts", "much", "Write whole percentages from 1 to 1000, such as 80, 100."),
        ("end_user_budget", "1/day, 2/month", "Must be one budget such as 1.00/day."),
        ("cidrs", "10.0.0.0/33", "&#x27;10.0.0.0/33&#x27; is no network such as 192.0.2.0/24 or 2001:db8::/32."),
        ("max_tokens", "0", "Must be at least 1."),
        ("tags", '{"a": 1}', "The tag &#x27;a&#x27; must have a name of 1 to 64 and a text of at most 256 characters."),
        (
            "unknown_price",
            "free",
            "Must be allow, block, or the US dollars that such a request is charged, as 0.05.",
        ),
        ("default_provider", "lab", "There is no provider lab; there are none."),
        ("endpoints", "chat", "Select a valid choice. chat is not one of the available choices."),
    ],
)
def test_what_is_wrong_with_a_key_stands_at_its_field(admin: Client, field: str, value: str, said: str) -> None:
    response = admin.post(url("clientkey_add"), {"name": "app", "aliases": "*", field: value})
    assert errors(response) == [said]
    assert list(response.context["adminform"].form.errors) == [field]
    assert not ClientKey.objects.exists()


def test_a_default_provider_may_be_a_row_or_of_the_environment(admin: Client, settings: Settings) -> None:
    Provider.objects.create(name="lab", base_url="https://lab.example.com/v1")
    settings.OPENAI_SERVER_URL = "https://api.openai.com"
    for name in ("lab", "openai-server"):
        assert admin.post(url("clientkey_add"), {"name": "app", "aliases": "*", "default_provider": name})
    assert set(ClientKey.objects.values_list("default_provider", flat=True)) == {"lab", "openai-server"}


def test_an_end_user_is_blocked_under_a_key_that_there_is(admin: Client) -> None:
    row, _ = ClientKey.objects.mint("app")
    wrong = admin.post(url("enduser_add"), {"name": "anna", "key": "nokey", "blocked": "on"})
    assert errors(wrong) == ["There is no key with the id nokey: the list of client keys has them."]
    assert admin.post(url("enduser_add"), {"name": "anna", "key": row.id, "blocked": "on"}).status_code == 302
    row.delete()
    found = EndUser.objects.get()
    assert admin.post(url("enduser_change", found.id), {"name": "anna", "key": found.key}).status_code == 302
    assert not EndUser.objects.get().blocked


def test_an_alias_is_limited_in_its_form(admin: Client) -> None:
    alias = ModelAlias.objects.create(name="fast")
    provider = Provider.objects.create(name="lab", dialect="echo")
    form = {"name": "fast", "strategy": "ordered", "enabled": "on", **LIMITS}
    form |= {"routes-TOTAL_FORMS": "1", "routes-INITIAL_FORMS": "0", "routes-0-provider": provider.id}
    form |= {"routes-0-position": "0", "routes-0-weight": "1"}
    assert admin.post(url("modelalias_change", alias.id), form).status_code == 302
    alias.refresh_from_db()
    assert (alias.rpm, alias.burst, alias.tpm, alias.concurrency) == (600, 60, 0, 5)


def test_a_team_with_keys_is_not_deleted_under_them(admin: Client) -> None:
    team = Team.objects.create(name="web")
    ClientKey.objects.mint("app", team=team)
    page(admin.post(url("team_delete", team.id), {"post": "yes"}))
    assert Team.objects.exists()


def test_s17_the_rotate_button_shows_the_new_key_once_and_the_old_one_ends_in_a_day(admin: Client) -> None:
    old, _ = ClientKey.objects.mint("app", rpm=60)
    response = admin.post(url("clientkey_actions", old.id, "rotate"))
    (token,) = TOKEN.findall(page(response))
    assert "no-store" in response["Cache-Control"]
    new = ClientKey.objects.with_token(token)
    assert new is not None
    assert (new.principal, new.rpm) == (old.id, 60)
    old.refresh_from_db()
    assert old.expires_at is not None
    assert abs(old.expires_at - timezone.now() - timedelta(hours=24)) < timedelta(minutes=1)
    assert "replaced, still live" in page(admin.get(url("clientkey_changelist")))
    again = admin.post(url("clientkey_actions", old.id, "rotate"), follow=True)
    assert f"has a successor already: {new.id}" in page(again)
    assert ClientKey.objects.count() == 2


def test_s16_the_compromised_button_ends_the_old_key_at_once(admin: Client) -> None:
    old, _ = ClientKey.objects.mint("app")
    address = url("clientkey_actions", old.id, "rotate_compromised")
    assert f'href="{address}"' in page(admin.get(url("clientkey_change", old.id)))
    asked = page(admin.get(address))
    assert "This key is refused at once, for good." in asked
    assert "The new key is shown once, on the next page" in asked
    assert list(ClientKey.objects.values_list("id", "enabled")) == [(old.id, True)]
    careful = Client(enforce_csrf_checks=True)
    careful.force_login(User.objects.get(username="root"))
    assert careful.post(address).status_code == 403
    csrf = re.findall(r'name="csrfmiddlewaretoken" value="(\w+)"', page(careful.get(address)))[0]
    assert TOKEN.search(page(careful.post(address, {"csrfmiddlewaretoken": csrf, "sure": "yes"})))
    old.refresh_from_db()
    assert (old.enabled, old.compromised_at is None) == (False, False)
    assert "compromised" in page(admin.get(url("clientkey_changelist")))
    assert "No new key is made: this one was replaced before" in page(admin.get(address))


def test_s18_rotation_needs_a_post_and_the_permission(admin: Client, client: Client) -> None:
    old, _ = ClientKey.objects.mint("app")
    assert admin.get(url("clientkey_actions", old.id, "rotate")).status_code == 405
    ClientKey.objects.update(source="file")
    admin.post(url("clientkey_actions", old.id, "rotate"))
    ClientKey.objects.update(source="admin")
    client.force_login(User.objects.create_user("staff", is_staff=True))
    client.post(url("clientkey_actions", old.id, "rotate"))
    for answer in (client.get, client.post):
        answer(url("clientkey_actions", old.id, "rotate_compromised"))
    assert ClientKey.objects.count() == 1
    assert ClientKey.objects.get().enabled


def test_the_history_of_a_key_names_who_changed_what(admin: Client) -> None:
    row, _ = ClientKey.objects.mint("app")
    form = {"name": "app", "aliases": "<b>", "enabled": "on", "rpm": "60"}
    assert admin.post(url("clientkey_change", row.id), form).status_code == 302
    text = page(admin.get(url("clientkey_history", row.id)))
    assert "root" in text
    assert re.search(r"Requests a minute:</strong>\s*0\s", text)
    assert "&rarr;&nbsp;&nbsp;60" in text
    assert "&lt;b&gt;" in text
    record = row.history.first()
    shown = page(admin.get(url("historicalclientkey_change", str(record.pk))))
    assert "<div>rpm: 0 → 60</div>" in shown
    assert "[&#x27;*&#x27;] → [&#x27;&lt;b&gt;&#x27;]" in shown


def test_a_form_that_is_saved_as_it_stands_leaves_the_end_of_a_key_alone(admin: Client) -> None:
    row, _ = ClientKey.objects.mint("app", expires_at=timezone.now().replace(microsecond=5) + timedelta(days=9))
    fields = admin.get(url("clientkey_change", row.id)).context["adminform"].form["expires_at"].value()
    day, time = str(fields.date()), fields.time().isoformat("seconds")
    form = {"name": "web", "aliases": "*", "enabled": "on", "expires_at_0": day, "expires_at_1": time}
    assert admin.post(url("clientkey_change", row.id), form).status_code == 302
    changed = ClientKey.objects.get()
    assert (changed.name, changed.expires_at) == ("web", row.expires_at)


def test_s18_the_history_cannot_be_changed(admin: Client) -> None:
    row, _ = ClientKey.objects.mint("app")
    record = row.history.get()
    for page_name, args in (("change", [str(record.pk)]), ("delete", [str(record.pk)]), ("add", [])):
        response = admin.post(url(f"historicalclientkey_{page_name}", *args), {"name": "other", "post": "yes"})
        assert response.status_code == 403
    assert row.history.get().name == "app"
    old = url("clientkey_simple_history", row.id, str(record.pk))
    assert admin.post(old, {"name": "other", "aliases": "*"}).status_code == 405
    assert ClientKey.objects.get().name == "app"
    assert admin.get(old, follow=True).redirect_chain == [(url("historicalclientkey_change", str(record.pk)), 302)]


def test_the_history_is_reached_from_the_rows_and_does_not_crowd_the_first_page(admin: Client) -> None:
    assert "istorical" not in page(admin.get("/admin/"))
    link = f'<a href="{url("historicalclientkey_changelist")}">All changes</a>'
    assert link in page(admin.get(url("clientkey_changelist")))
    ClientKey.objects.mint("gone")[0].delete()
    text = page(admin.get(url("historicalclientkey_changelist")))
    assert "gone" in text
    # What was done, and not the kind that the key is of.
    assert re.findall(r'<td class="field-done">(\w+)</td>', text) == ["deleted", "made"]


def test_a_publishable_key_is_made_with_its_bounds_or_not_at_all(admin: Client) -> None:
    form = {"name": "page", "kind": "publishable", "aliases": "fast", "endpoints": ["chat.completions"]}
    form |= {"origins": "HTTPS://app.example.com\nhttps://*.example.org", "address_rpm": "20"}
    said = errors(admin.post(url("clientkey_add"), {**form, "max_tokens": ""}))
    assert said == ["Must be given for a publishable key: the most output tokens of a request."]
    shown = page(admin.post(url("clientkey_add"), {**form, "max_tokens": "50"}))
    row = ClientKey.objects.get()
    assert f"pk-gw-{row.id}-" in shown
    assert (row.kind, row.origins, row.address_rpm) == (
        "publishable",
        ["https://app.example.com", "https://*.example.org"],
        20,
    )
    said = errors(admin.post(url("clientkey_change", row.id), {**form, "max_tokens": "50", "origins": ""}))
    assert said == ["Must name the pages that may use a publishable key, such as https://app.example.com."]


def test_the_page_of_a_key_speaks_in_the_terms_of_the_field(admin: Client) -> None:
    row, _ = ClientKey.objects.mint("app")
    text = page(admin.get(url("clientkey_change", row.id)))
    labels = [label.strip(" :") for label in re.findall(r"<label[^>]*>([^<]+)</label>", text)]
    limits = ["Requests per minute", "Burst", "Tokens per minute", "Concurrent requests"]
    assert [label for label in labels if label in limits] == limits
    named = ["Max output tokens", "Max choices (n)", "Allowed IP addresses", "Allowed web origins", "Alert at (%)"]
    facts = ["Key id", "Imported", "Usage counted under", "Replaced by", "Must be used before", "Managed in"]
    assert [*named, *facts] == [label for label in labels if label in {*named, *facts}]
    for jargon in ("Principal", "Foreign", "Pepper deadline", "at a stroke", "Bodies kept"):
        assert jargon not in text
