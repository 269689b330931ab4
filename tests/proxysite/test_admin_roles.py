"""S18: every page of the admin for everybody who should not see it, and fields that no form has."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.contrib import admin
from django.contrib.auth.models import Permission, User
from django.db import models
from django.test import Client
from django.urls import NoReverseMatch, reverse

from providers.models import ClientKey
from proxysite import urls

pytestmark = pytest.mark.django_db
PAGES = ("changelist", "add", "change", "delete", "history")
assert urls.urlpatterns  # with them the admin finds its models
MODELS = sorted(admin.site._registry, key=lambda model: model._meta.label)


def addresses(model: type[models.Model]) -> Iterator[tuple[str, str]]:
    """The kinds and the addresses of a model's pages; of a row that is not there, since leave is looked at first."""
    for kind in PAGES:
        try:
            name = f"admin:{model._meta.app_label}_{model._meta.model_name}_{kind}"
            yield kind, reverse(name, args=["none"] if kind in ("change", "delete", "history") else [])
        except NoReverseMatch:
            continue


def every_address() -> list[str]:
    own = [reverse(name) for name in ("admin:index", "status", "usage", "usage_csv")]
    return own + [url for model in MODELS for _, url in addresses(model)]


def signed_in(*permissions: str, **fields: Any) -> Client:
    user = User.objects.create_user("somebody", **fields)
    user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
    client = Client()
    client.force_login(user)
    return client


def test_s18_there_are_pages_of_every_model() -> None:
    assert len(MODELS) > 10
    assert len(every_address()) > 3 * len(MODELS)


@pytest.mark.parametrize("who", ["a stranger", "a user who is no staff", "staff who is not active"])
def test_s18_who_is_no_staff_is_sent_to_the_sign_in_from_every_page(who: str) -> None:
    made: dict[str, Callable[[], Client]] = {
        "a stranger": Client,
        "a user who is no staff": signed_in,
        "staff who is not active": lambda: signed_in(is_staff=True, is_active=False),
    }
    client = made[who]()
    for url in every_address():
        for method in (client.get, client.post):
            answer = method(url)
            assert answer.status_code == 302, url
            assert answer.headers["location"].startswith("/admin/login/"), url


def test_s18_staff_without_leave_is_refused_on_every_page_of_every_model() -> None:
    client = signed_in(is_staff=True)
    for model in MODELS:
        for kind, url in addresses(model):
            for method in (client.get, client.post):
                assert method(url).status_code in ((403,) if kind in ("changelist", "add") else (302, 403, 404)), url
    assert client.get(reverse("admin:index")).status_code == 200


def test_s18_who_may_look_at_keys_may_change_none_and_see_nothing_else() -> None:
    key, _ = ClientKey.objects.mint("app", rpm=60)
    client = signed_in("view_clientkey", is_staff=True)
    change = reverse("admin:providers_clientkey_change", args=[key.id])
    assert client.get(reverse("admin:providers_clientkey_changelist")).status_code == 200
    assert client.get(change).status_code == 200
    assert client.post(change, {"name": "mine", "rpm": "9999"}).status_code == 403
    assert client.post(reverse("admin:providers_clientkey_add"), {"name": "mine"}).status_code == 403
    assert client.post(reverse("admin:providers_clientkey_delete", args=[key.id]), {"post": "yes"}).status_code == 403
    listing = reverse("admin:providers_clientkey_changelist")
    for action in ("enable", "disable", "revoke"):
        client.post(listing, {"action": action, "_selected_action": [key.id]})
    key.refresh_from_db()
    assert (key.name, key.rpm, key.enabled, key.expires_at) == ("app", 60, True, None)
    assert client.get(reverse("admin:providers_provider_changelist")).status_code == 403


def test_s18_fields_that_the_form_does_not_have_change_nothing() -> None:
    key, _ = ClientKey.objects.mint("app")
    before = ClientKey.objects.filter(pk=key.pk).values("id", "digest", "pepper_id", "principal", "source").get()
    client = signed_in("view_clientkey", "change_clientkey", is_staff=True)
    form = {"name": "renamed", "aliases": "*", "enabled": "on", "unknown_price": "allow", "tags": "{}", "rpm": "5"}
    forged = {
        "id": "other",
        "digest": "00" * 32,
        "pepper_id": "p9",
        "principal": "victim",
        "source": "file",
        "compromised_at_0": "2020-01-01",
        "compromised_at_1": "00:00",
        "kind": "publishable",
        "foreign": "on",
    }
    page = client.get(reverse("admin:providers_clientkey_change", args=[key.id]))
    usual = {name: value for name, value in page.context["adminform"].form.initial.items() if isinstance(value, str)}
    answer = client.post(reverse("admin:providers_clientkey_change", args=[key.id]), usual | form | forged)
    assert answer.status_code == 302, answer.context["adminform"].form.errors
    assert ClientKey.objects.filter(pk=key.pk).values(*before).get() == before
    row = ClientKey.objects.get()
    assert (row.name, row.rpm, row.compromised_at, row.kind, row.foreign) == ("renamed", 5, None, "secret", False)


def test_s18_no_list_is_a_form() -> None:
    assert [model for model in MODELS if admin.site._registry[model].list_editable] == []
