"""The operator's pages, through Django's own door."""

import re
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import User
from django.test import Client
from django.urls import reverse
from pytest_django import DjangoAssertNumQueries, Settings

from providers import keys, probing
from providers.models import ClientKey, Credential, ModelAlias, Provider, Route
from providers.presets import presets
from providers.probing import ProbeResult
from providers.targets import CredentialCard, ProviderCard
from tests.providers.pages import errors, page, url

pytestmark = pytest.mark.django_db
CANARY = "sk-canary-0123456789-wxyz"
REQUIRED = "This field is required."
NO_CREDENTIALS = {"credentials-TOTAL_FORMS": "0", "credentials-INITIAL_FORMS": "0"}
PROVIDER = {
    "name": "lab",
    "dialect": "openai",
    "base_url": "https://lab.example.com/v1",
    "enabled": "on",
    "options": "{}",
    "quirks": "{}",
    "timeouts": "{}",
}


def credential_fields(row: Credential | None = None, **fields: str) -> dict[str, str]:
    values = {"id": row.id if row else "", "name": "main", "secret": "", "reference": "", "enabled": "on", **fields}
    management = {"credentials-TOTAL_FORMS": "1", "credentials-INITIAL_FORMS": "1" if row else "0"}
    return {**management, **{f"credentials-0-{name}": value for name, value in values.items()}}


@pytest.fixture
def stored() -> Credential:
    provider = Provider.objects.create(name="lab", base_url="https://lab.example.com/v1")
    credential = Credential(provider=provider, name="main")
    credential.seal(CANARY)
    credential.save()
    return credential


def test_a_typed_key_is_stored_encrypted_and_never_shown_again(admin: Client) -> None:
    response = admin.post(url("provider_add"), {**PROVIDER, **credential_fields(secret=CANARY)})
    assert response.status_code == 302
    row = Credential.objects.get()
    assert row.unseal().reveal() == CANARY
    assert (row.reference, row.hint) == ("", "wxyz")
    text = page(admin.get(url("provider_change", row.provider_id)))
    assert "…wxyz, decrypts: yes" in text
    assert "canary" not in text
    assert row.sealed not in text
    assert not LogEntry.objects.filter(change_message__contains="canary").exists()


def test_a_refused_form_does_not_give_the_typed_key_back(admin: Client) -> None:
    response = admin.post(url("provider_add"), {**PROVIDER, "base_url": "", **credential_fields(secret=CANARY)})
    assert errors(response) == ["Give the base URL, such as https://api.example.com/v1."]
    assert "canary" not in page(response)


def test_a_reference_is_kept_instead_of_a_key(admin: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    admin.post(url("provider_add"), {**PROVIDER, **credential_fields(reference="env:LAB_KEY")})
    row = Credential.objects.get()
    assert (row.reference, row.sealed) == ("env:LAB_KEY", "")
    change = url("provider_change", row.provider_id)
    assert "the environment variable LAB_KEY is not set" in page(admin.get(change))
    monkeypatch.setenv("LAB_KEY", CANARY)
    text = page(admin.get(change))
    assert "read from env:LAB_KEY" in text
    assert "canary" not in text


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"secret": "a", "reference": "env:A"}, "Give a key or a reference, not both."),
        ({"name": "second"}, "Enter the key, or give a reference."),
        ({"reference": "sk-live"}, "a reference is of the form env:NAME"),
        ({"reference": "ssm:a b"}, "a reference is of the form env:NAME or ssm:NAME"),
        ({"secret": "sk a"}, "This is no key: it holds spaces"),
    ],
)
def test_what_is_wrong_with_a_credential_stands_at_its_field(admin: Client, fields: dict[str, str], said: str) -> None:
    (error,) = errors(admin.post(url("provider_add"), {**PROVIDER, **credential_fields(None, **fields)}))
    assert error.startswith(said)
    assert Provider.objects.count() == 0


def test_another_origin_demands_the_key_again(admin: Client, stored: Credential) -> None:
    change = url("provider_change", stored.provider_id)
    moved = {**PROVIDER, "base_url": "https://evil.example.com/v1"}
    response = admin.post(change, {**moved, **credential_fields(stored)})
    (error,) = errors(response)
    assert error.startswith("The provider&#x27;s address leads elsewhere now: enter the key again")
    assert Provider.objects.get().base_url == "https://lab.example.com/v1"
    admin.post(change, {**moved, **credential_fields(stored, secret="sk-new-0123456789abcd")})
    assert Provider.objects.get().base_url == "https://evil.example.com/v1"
    assert Credential.objects.get().unseal().reveal() == "sk-new-0123456789abcd"


def test_another_path_of_the_same_origin_keeps_the_key(admin: Client, stored: Credential) -> None:
    moved = {**PROVIDER, "base_url": "https://lab.example.com:443/other/v1"}
    response = admin.post(url("provider_change", stored.provider_id), {**moved, **credential_fields(stored)})
    assert response.status_code == 302
    assert Credential.objects.get().unseal().reveal() == CANARY


def test_a_key_that_does_not_decrypt_is_said_on_the_page(admin: Client, stored: Credential) -> None:
    Provider.objects.update(base_url="https://elsewhere.example.com/v1")
    assert "…wxyz, decrypts: no. Enter the key again." in page(admin.get(url("provider_change", stored.provider_id)))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"base_url": "https://10.0.0.1/v1"}, "A private or special address is called only where GATEWAY_PRIVATE"),
        ({"base_url": "javascript:alert(1)"}, "Write the scheme too"),
        ({"base_url": "https://x.example.com/{tenant_id}/v1"}, "Fill in {tenant_id}"),
        ({"options": '{"api": 1}'}, "api is no option of this dialect"),
        ({"options": "[]"}, "This must be an object"),
        ({"quirks": '{"drop": ["model"]}'}, "quirks.drop.model"),
        ({"timeouts": '{"gap": 0}'}, "timeouts.gap must be more than 0"),
        ({"timeouts": "{"}, "Enter a valid JSON."),
    ],
)
def test_what_is_wrong_with_a_provider_stands_at_its_field(admin: Client, fields: dict[str, str], said: str) -> None:
    response = admin.post(url("provider_add"), {**PROVIDER, **NO_CREDENTIALS, **fields})
    (error,) = errors(response)
    assert error.startswith(said)
    assert f"field-{next(iter(fields))}" in page(response)
    assert Provider.objects.count() == 0


def test_a_base_url_is_normalised_and_its_placeholders_filled(admin: Client) -> None:
    given = {"base_url": "https://{resource}.example.com/", "options": '{"resource": "me", "include_usage": false}'}
    admin.post(url("provider_add"), {**PROVIDER, **NO_CREDENTIALS, **given, "quirks": ""})
    row = Provider.objects.get()
    assert (row.base_url, row.options, row.quirks) == ("https://me.example.com/v1", {"include_usage": False}, {})


@pytest.mark.parametrize("name", presets())
def test_a_preset_fills_the_form(admin: Client, name: str) -> None:
    response = admin.get(url("provider_add"), {"preset": name})
    text = page(response)
    assert f'href="?preset={name}" class="chosen"' in text
    initial = response.context["adminform"].form.initial
    assert (initial["dialect"], initial["base_url"]) == (presets()[name].dialect, presets()[name].base_url)


def test_all_presets_are_offered_and_an_unknown_one_is_ignored(admin: Client) -> None:
    text = page(admin.get(url("provider_add"), {"preset": "<script>"}))
    assert re.findall(r'href="\?preset=([a-z-]+)"', text) == list(presets())
    assert "<script>&" not in text
    assert 'class="chosen"' not in text


@pytest.fixture
def probed() -> Iterator[list[Any]]:
    seen: list[Any] = []

    def prober(card: ProviderCard, credential: CredentialCard | None) -> ProbeResult:
        seen.append((card, credential))
        return ProbeResult(False, 401, "<script>alert('no')</script>\n bad key", 12)

    before = list(probing._registered)
    probing.register(prober)
    yield seen
    probing._registered[:] = before


def test_the_test_button_shows_the_providers_own_words_escaped(
    admin: Client, stored: Credential, probed: list[Any]
) -> None:
    target = url("provider_actions", stored.provider_id, "test_upstream")
    assert f'<form method="post" action="{target}"' in page(admin.get(url("provider_change", stored.provider_id)))
    text = page(admin.post(target, follow=True))
    assert "lab with main does not work: status 401 after 12 ms. &lt;script&gt;alert(" in text.lower()
    assert "<script>alert(" not in text
    ((card, credential),) = probed
    assert (card.name, credential.secret.reveal()) == ("lab", CANARY)
    assert "canary" not in text


def test_the_test_button_names_credentials_that_cannot_be_used(
    admin: Client, stored: Credential, probed: list[Any]
) -> None:
    target = url("provider_actions", stored.provider_id, "test_upstream")
    Credential.objects.create(provider=stored.provider, name="spare", reference="env:NOT_SET_ANYWHERE")
    assert "Left out: credential lab/spare: the environment variable" in page(admin.post(target, follow=True))
    assert len(probed) == 1
    stored.delete()
    assert "Lab cannot be tested: none of its credentials works." in page(admin.post(target, follow=True))
    Provider.objects.update(dialect="klingon")
    assert "Lab cannot be tested: provider lab: there is no dialect" in page(admin.post(target, follow=True))
    assert len(probed) == 1


def test_the_test_button_needs_a_post(admin: Client, stored: Credential, probed: list[Any]) -> None:
    target = url("provider_actions", stored.provider_id, "test_upstream")
    assert admin.get(target).status_code == 405
    assert probed == []


def test_staff_without_the_permission_may_not_test(client: Client, stored: Credential, probed: list[Any]) -> None:
    client.force_login(User.objects.create_user("clerk", is_staff=True))
    client.post(url("provider_actions", stored.provider_id, "test_upstream"))
    assert probed == []


def routes(*pairs: tuple[str, str], total: int | None = None) -> dict[str, str]:
    fields = {"routes-TOTAL_FORMS": str(total or len(pairs)), "routes-INITIAL_FORMS": "0"}
    for index, (provider, model) in enumerate(pairs):
        values = {"position": str(index), "provider": provider, "model": model, "weight": "1"}
        fields |= {f"routes-{index}-{name}": value for name, value in values.items()}
    return fields


def test_an_alias_is_made_with_its_routes_in_order(admin: Client, stored: Credential) -> None:
    other = Provider.objects.create(name="spare", base_url="https://spare.example.com/v1")
    alias = {"name": "fast", "strategy": "ordered", "enabled": "on"}
    admin.post(url("modelalias_add"), {**alias, **routes((stored.provider_id, "m1"), (other.id, ""))})
    assert [str(route) for route in ModelAlias.objects.get().routes.all()] == ["lab:m1", "spare:"]
    assert "lab:m1, then spare" in page(admin.get(url("modelalias_changelist")))


def test_an_alias_without_a_route_and_a_bad_name_are_refused(admin: Client, stored: Credential) -> None:
    alias = {"name": "a*b", "strategy": "ordered", "enabled": "on"}
    response = admin.post(url("modelalias_add"), {**alias, **routes(total=0)})
    text = page(response)
    assert "has a * before its end" in text
    assert "An alias needs at least one route" in text
    assert ModelAlias.objects.count() == 0


def test_an_alias_whose_lines_for_routes_were_left_empty_is_refused(admin: Client, stored: Credential) -> None:
    alias = {"name": "fast", "strategy": "ordered", "enabled": "on"}
    # As a browser sends them.
    empty = {"id": "", "alias": "", "position": "0", "provider": "", "model": "", "weight": "1"}
    lines = {f"routes-{number}-{name}": value for number in (0, 1) for name, value in empty.items()}
    response = admin.post(url("modelalias_add"), {**alias, **routes(total=2), **lines})
    assert "An alias needs at least one route" in page(response)
    assert not ModelAlias.objects.exists()


def test_what_is_missing_is_said_once(admin: Client) -> None:
    def said(model: str, **fields: str) -> dict[str, list[str]]:
        response = admin.post(url(f"{model}_add"), {**routes(total=0), **fields})
        return {**response.context["adminform"].form.errors}

    assert said("modelalias", strategy="ordered") == {"name": [REQUIRED]}
    wrong = said("issuer", algorithms="RS256", leeway="30", key="none")
    assert wrong.pop("key")[0] == "There is no key with this id: the magnifier lists those that there are."
    assert wrong == {key: [REQUIRED] for key in ("name", "issuer", "audience", "jwks_url", "end_user_claim")}


def test_a_new_key_is_shown_once_in_the_answer_and_nowhere_else(admin: Client) -> None:
    response = admin.post(url("clientkey_add"), {"name": "web <b>", "aliases": "fast\n mistral/* \n\n"})
    text = page(response)
    (token,) = re.findall(r"sk-gw-[0-9A-Za-z]{10}-[0-9A-Za-z]{49}", text)
    assert isinstance(keys.parse(token), keys.Parsed)
    assert "web &lt;b&gt;" in text
    assert "no-store" in response["Cache-Control"]
    row = ClientKey.objects.get()
    assert row == ClientKey.objects.with_token(token)
    assert row.aliases == ["fast", "mistral/*"]
    for again in (url("clientkey_changelist"), url("clientkey_change", row.id), reverse("admin:index")):
        assert token not in page(admin.get(again))
    secret = token[17:]
    assert secret not in repr(dict(admin.session))
    assert not LogEntry.objects.filter(object_repr__contains=secret).exists()
    assert row.last_four in page(admin.get(url("clientkey_changelist")))


def test_the_form_of_a_new_key_offers_all_aliases(admin: Client) -> None:
    assert re.search(r'<textarea name="aliases"[^>]*>\s*\*</textarea>', page(admin.get(url("clientkey_add"))))


def test_a_new_route_is_placed_after_the_others(admin: Client, stored: Credential) -> None:
    alias = ModelAlias.objects.create(name="fast")
    first = Route.objects.create(alias=alias, provider=stored.provider, model="m1", position=4)
    change = url("modelalias_change", alias.id)
    assert 'name="routes-1-position" value="5"' in page(admin.get(change))
    form = {"name": "fast", "strategy": "ordered", "enabled": "on", **routes(("", "m1"), ("", ""))}
    form |= {"routes-INITIAL_FORMS": "1", "routes-0-id": first.id, "routes-0-position": "4", "routes-1-position": "5"}
    form |= {"routes-0-provider": stored.provider_id}
    assert admin.post(change, form).status_code == 302
    assert alias.routes.count() == 1
    admin.post(change, {**form, "routes-1-provider": stored.provider_id, "routes-1-model": "m2"})
    assert [route.model for route in alias.routes.all()] == ["m1", "m2"]


def test_a_key_is_edited_without_losing_itself(admin: Client) -> None:
    row, token = ClientKey.objects.mint("web")
    form = {"name": "site", "aliases": "fast", "expires_at_0": "", "expires_at_1": ""}
    assert admin.post(url("clientkey_change", row.id), form).status_code == 302
    row = ClientKey.objects.get()
    assert (row.name, row.aliases, row.enabled) == ("site", ["fast"], False)
    assert row == ClientKey.objects.with_token(token)
    assert errors(admin.post(url("clientkey_change", row.id), {**form, "aliases": "a*b"})) == [
        "&#x27;a*b&#x27; has a * before its end: only the last character may be one"
    ]


def test_keys_are_disabled_enabled_and_revoked_in_the_list(admin: Client) -> None:
    row, _ = ClientKey.objects.mint("web")

    def act(action: str) -> ClientKey:
        admin.post(url("clientkey_changelist"), {"action": action, "_selected_action": [row.id]})
        return ClientKey.objects.get()

    assert not act("disable").enabled
    assert act("enable").enabled
    assert act("enable").expires_at is None
    revoked = act("revoke")
    assert not revoked.enabled
    assert revoked.expires_at is not None
    act("enable")
    assert "expired" in page(admin.get(url("clientkey_changelist")))


def test_rows_of_a_file_are_shown_and_not_edited(admin: Client, stored: Credential) -> None:
    Provider.objects.update(source="file")
    change = url("provider_change", stored.provider_id)
    text = page(admin.get(change))
    assert "This comes from a configuration file" in text
    assert 'name="base_url"' not in text
    assert 'name="credentials-0-secret"' not in text
    assert admin.post(change, {**PROVIDER, **NO_CREDENTIALS}).status_code == 403
    assert admin.post(url("provider_delete", stored.provider_id), {"post": "yes"}).status_code == 403
    admin.post(url("provider_changelist"), {"action": "disable", "_selected_action": [stored.provider_id]})
    selected = {"action": "delete_selected", "_selected_action": [stored.provider_id], "post": "yes"}
    admin.post(url("provider_changelist"), selected)
    assert Provider.objects.get().enabled
    assert "configuration file" in page(admin.get(url("provider_changelist")))


def test_what_the_environment_declares_is_listed(
    admin: Client, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.OPENAI_SERVER_URL = "https://api.openai.com"
    monkeypatch.setenv("OPENAI_SERVER_KEY", CANARY)
    monkeypatch.setenv("OPENAI_PROXY_KEY", "sk-1234")
    seen = [page(admin.get(url(f"{model}_changelist"))) for model in ("provider", "modelalias", "clientkey")]
    for text, row in zip(seen, ["openai-server", "*", "OPENAI_PROXY_KEY"], strict=True):
        assert f"<dt>{row}</dt>" in text
        assert "canary" not in text
        assert "sk-1234" not in text
    assert "OPENAI_PROXY_KEY is shorter than 20 characters" in seen[2]
    settings.GATEWAY_PRIVATE_UPSTREAMS = ["<b>"]
    assert "GATEWAY_PRIVATE_UPSTREAMS: &#x27;&lt;b&gt;&#x27;" in page(admin.get(url("provider_changelist")))


@pytest.mark.parametrize("model", ["provider", "modelalias", "clientkey"])
def test_a_changelist_costs_the_same_for_many_rows_as_for_few(
    admin: Client, stored: Credential, django_assert_max_num_queries: DjangoAssertNumQueries, model: str
) -> None:
    for number in range(30):
        provider = Provider.objects.create(name=f"p{number}", base_url="https://x.example.com/v1")
        Credential.objects.create(provider=provider, reference="env:A")
        alias = ModelAlias.objects.create(name=f"a{number}")
        Route.objects.create(alias=alias, provider=provider)
        Route.objects.create(alias=alias, provider=stored.provider)
        ClientKey.objects.mint(f"k{number}")
    with django_assert_max_num_queries(8):
        page(admin.get(url(f"{model}_changelist")))


def test_what_operators_and_files_write_is_escaped_and_no_address_is_a_link(admin: Client) -> None:
    Provider.objects.create(name="x", base_url="javascript:alert(1)", dialect="<i>")
    row = Provider.objects.get()
    Route.objects.create(alias=ModelAlias.objects.create(name="a"), provider=row, model="<script>alert(1)</script>")
    for where in (url("provider_changelist"), url("provider_change", row.id), url("modelalias_changelist")):
        text = page(admin.get(where))
        assert 'href="javascript:' not in text
        assert "<script>alert(1)" not in text
        assert "<i>" not in text


PAGES = ["provider_changelist", "provider_add", "modelalias_add", "clientkey_add", "clientkey_changelist"]


@pytest.mark.parametrize("name", PAGES)
def test_the_pages_hold_under_the_content_security_policy(admin: Client, name: str) -> None:
    response = admin.get(url(name))
    text = page(response)
    assert "default-src 'self'" in response["Content-Security-Policy"]
    assert not re.search(
        r"<script(?![^>]*(src=|type=\"application/json\"))[^>]*>|\sstyle=\"|\son[a-z]+=\"|<style", text
    )


@pytest.mark.parametrize("name", PAGES)
def test_nobody_sees_the_pages_without_signing_in(client: Client, name: str) -> None:
    assert client.get(url(name)).status_code == 302


def test_the_test_button_calls_the_upstream_itself(admin: Client, stored: Credential) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
    stored.provider.base_url = address
    stored.provider.save()
    stored.seal(CANARY)
    stored.save()
    text = page(admin.post(url("provider_actions", stored.provider_id, "test_upstream"), follow=True))
    assert "lab with main does not work: no answer after" in text.lower()
