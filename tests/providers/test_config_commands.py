"""import_config, export_config and diff_config on real rows."""

import contextlib
import io
import json
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from django.core.management import CommandError, call_command
from pytest_django import Settings

from providers.cards import key_card
from providers.models import ClientKey, Credential, ModelAlias, Provider, Route

pytestmark = pytest.mark.django_db
TEXT = """
providers:
  mistral: {preset: mistral, credentials: {main: env:MISTRAL_API_KEY, spare: env:SPARE}}
  lab: {dialect: openai, base_url: "http://127.0.0.1:9000/v1/", timeouts: {gap: 90}}
aliases:
  fast: {routes: [{provider: lab, model: gpt-4o}, {provider: mistral, model: large, weight: 2}]}
  "*": {strategy: weighted, early_200: true, routes: [{provider: lab}]}
keys:
  web-app: {aliases: [fast], expires_at: 2030-01-31T01:00:00+01:00}
"""
STRONG = "an-Own-Key-From-2019-q7Zr4"


@pytest.fixture(autouse=True)
def _development(settings: Settings) -> None:
    settings.DEVELOPMENT = True


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "gateway.yaml"
    path.write_text(TEXT)
    return path


def run(command: str, *args: Any) -> str:
    out = io.StringIO()
    call_command(command, *map(str, args), stdout=out, stderr=io.StringIO())
    return out.getvalue()


def diff(file: Path) -> str:
    out = io.StringIO()
    with contextlib.suppress(SystemExit):
        call_command("diff_config", str(file), stdout=out)
    return out.getvalue()


def counts() -> list[int]:
    return [model.objects.count() for model in (Provider, Credential, ModelAlias, Route, ClientKey)]


def test_an_import_makes_the_rows_and_a_second_one_changes_nothing(file: Path) -> None:
    said = run("import_config", file)
    assert said.splitlines() == [
        "+ providers.lab",
        "+ providers.mistral",
        "+ aliases.*",
        "+ aliases.fast",
        "! keys.web-app: no such key yet: make it with create_client_key, then import again",
        "4 changed.",
    ]
    assert counts() == [2, 2, 2, 3, 0]
    lab = Provider.objects.get(name="lab")
    assert (lab.base_url, lab.timeouts, lab.source) == ("http://127.0.0.1:9000/v1", {"gap": 90}, "file")
    fast = ModelAlias.objects.get(name="fast")
    assert [(route.provider.name, route.model, route.weight, route.position) for route in fast.routes.all()] == [
        ("lab", "gpt-4o", 1, 0),
        ("mistral", "large", 2, 1),
    ]
    ids = set(Route.objects.values_list("id", flat=True))
    assert run("import_config", file).splitlines()[-1] == "0 changed."
    assert set(Route.objects.values_list("id", flat=True)) == ids


def test_import_then_export_then_diff_is_empty(file: Path, tmp_path: Path) -> None:
    ClientKey.objects.mint("web-app")
    run("import_config", file, "--adopt")
    assert diff(file) == ""
    exported = run("export_config")
    (tmp_path / "exported.yaml").write_text(exported)
    assert diff(tmp_path / "exported.yaml") == ""
    assert run("export_config") == exported
    assert run("import_config", tmp_path / "exported.yaml") == "0 changed.\n"
    assert yaml.safe_load(exported)["keys"] == {
        "web-app": {"aliases": ["fast"], "expires_at": "2030-01-31T00:00:00+00:00"}
    }


def test_a_dry_run_says_what_would_happen_and_does_nothing(file: Path) -> None:
    said = json.loads(run("import_config", file, "--dry-run", "--json"))
    assert said["dry_run"] is True
    assert [(change["action"], change["section"], change["name"]) for change in said["changes"]] == [
        ("create", "providers", "lab"),
        ("create", "providers", "mistral"),
        ("create", "aliases", "*"),
        ("create", "aliases", "fast"),
    ]
    assert said["pending"] == ["web-app"]
    assert counts() == [0, 0, 0, 0, 0]


def test_a_change_in_the_file_reaches_the_rows_and_is_shown(file: Path) -> None:
    run("import_config", file)
    file.write_text(
        TEXT.replace("gap: 90", "gap: 30").replace(", spare: env:SPARE", "").replace("weight: 2", "weight: 5")
    )
    with pytest.raises(SystemExit, match="1"):
        run("diff_config", file)
    assert "    timeouts: {'gap': 90} -> {'gap': 30}" in diff(file)
    run("import_config", file)
    assert Provider.objects.get(name="lab").timeouts == {"gap": 30}
    assert list(Credential.objects.values_list("name", "reference")) == [("main", "env:MISTRAL_API_KEY")]
    assert Route.objects.get(alias__name="fast", position=1).weight == 5
    assert "keys.web-app" in diff(file)


def test_rows_of_the_admin_are_not_touched_without_saying_so(file: Path) -> None:
    mine = Provider.objects.create(name="lab", base_url="https://lab.example.com/v1")
    other = Provider.objects.create(name="other", base_url="https://other.example.com/v1")
    with pytest.raises(CommandError, match=r"providers\.lab: belongs to the admin.*--adopt"):
        run("import_config", file)
    assert counts() == [2, 0, 0, 0, 0]
    assert "~ providers.lab (adopted from the admin)" in run("import_config", file, "--adopt", "--prune")
    mine.refresh_from_db()
    other.refresh_from_db()
    assert (mine.base_url, mine.source, other.source) == ("http://127.0.0.1:9000/v1", "file", "admin")


def test_a_row_of_the_admin_that_says_the_same_still_needs_adopting(tmp_path: Path) -> None:
    Provider.objects.create(name="lab", base_url="https://lab.example.com/v1")
    file = tmp_path / "one.yaml"
    file.write_text("providers: {lab: {base_url: https://lab.example.com}}")
    assert diff(file) == ""
    with pytest.raises(CommandError, match=r"belongs to the admin"):
        run("import_config", file)
    run("import_config", file, "--adopt")
    assert Provider.objects.get().source == "file"
    assert run("import_config", file) == "0 changed.\n"


def test_prune_deletes_what_the_file_no_longer_names(file: Path) -> None:
    run("import_config", file)
    Provider.objects.create(name="mine", base_url="https://mine.example.com/v1")
    file.write_text("providers: {lab: {dialect: openai, base_url: 'http://127.0.0.1:9000/v1'}}")
    assert "providers.mistral" not in run("import_config", file)
    assert run("import_config", file, "--prune").splitlines()[:3] == [
        "- providers.mistral",
        "- aliases.*",
        "- aliases.fast",
    ]
    assert sorted(Provider.objects.values_list("name", flat=True)) == ["lab", "mine"]


def test_a_provider_that_the_admin_still_uses_is_not_pruned(file: Path) -> None:
    run("import_config", file)
    mine = ModelAlias.objects.create(name="mine")
    Route.objects.create(alias=mine, provider=Provider.objects.get(name="mistral"))
    file.write_text("providers: {lab: {dialect: openai, base_url: 'http://127.0.0.1:9000/v1'}}")
    with pytest.raises(CommandError, match=r"providers\.mistral: is still used by the aliases mine"):
        run("import_config", file, "--prune")
    assert Provider.objects.count() == 2
    assert ModelAlias.objects.count() == 3


def test_stored_credentials_are_neither_exported_nor_lost(tmp_path: Path) -> None:
    provider = Provider.objects.create(name="lab", base_url="https://lab.example.com/v1")
    credential = Credential(provider=provider, name="main")
    credential.seal("sk-canary-0123456789abcdef")
    credential.save()
    out, err = io.StringIO(), io.StringIO()
    call_command("export_config", stdout=out, stderr=err)
    assert "canary" not in out.getvalue() + err.getvalue()
    assert credential.sealed not in out.getvalue() + err.getvalue()
    assert "providers.lab.credentials.main is stored encrypted" in err.getvalue()
    file = tmp_path / "one.yaml"
    file.write_text(out.getvalue())
    run("import_config", file, "--adopt")
    assert Credential.objects.get().unseal().reveal() == "sk-canary-0123456789abcdef"
    file.write_text("providers: {lab: {base_url: https://elsewhere.example.com}}")
    with pytest.raises(CommandError, match=r"providers\.lab\.base_url: another address.*sealed for https://lab"):
        run("import_config", file)
    assert Provider.objects.get().base_url == "https://lab.example.com/v1"


def test_a_key_from_elsewhere_is_taken_over_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: Settings
) -> None:
    file = tmp_path / "one.yaml"
    file.write_text("keys: {old: {existing: env:OLD_KEY, aliases: [fast]}}")
    with pytest.raises(CommandError, match=r"keys\.old\.existing: the environment variable OLD_KEY is not set"):
        run("import_config", file)
    settings.DEVELOPMENT = False
    monkeypatch.setenv("OLD_KEY", "sk-1234")
    with pytest.raises(CommandError, match=r"the key in env:OLD_KEY is shorter than 20 characters"):
        run("import_config", file)
    assert ClientKey.objects.count() == 0
    monkeypatch.setenv("OLD_KEY", STRONG)
    run("import_config", file)
    row = ClientKey.objects.get()
    assert (row.name, row.foreign, row.aliases, row.source) == ("old", True, ["fast"], "file")
    assert row == ClientKey.objects.with_token(STRONG)
    monkeypatch.delenv("OLD_KEY")
    assert run("import_config", file) == "0 changed.\n"


def test_two_keys_of_one_name_are_neither_imported_nor_exported(tmp_path: Path) -> None:
    ClientKey.objects.mint("web")
    ClientKey.objects.mint("web")
    file = tmp_path / "one.yaml"
    file.write_text("keys: {web: {}}")
    with pytest.raises(CommandError, match=r"keys\.web: several client keys have this name"):
        run("import_config", file, "--adopt")
    assert yaml.safe_load(run("export_config"))["keys"] == {}


@pytest.mark.parametrize("command", ["import_config", "diff_config"])
def test_a_faulty_file_is_refused_with_its_paths(command: str, tmp_path: Path) -> None:
    file = tmp_path / "one.yaml"
    file.write_text("{providers: {lab: {preset: openai}}, aliases: {fast: {routes: [{provider: labb}]}}}")
    with pytest.raises(CommandError, match=r'aliases\.fast\.routes\[0\]\.provider: no provider named "labb"'):
        run(command, file)
    with pytest.raises(CommandError, match="cannot be read"):
        run(command, tmp_path / "missing.yaml")
    assert counts() == [0, 0, 0, 0, 0]


def test_a_revoked_key_stays_revoked_though_the_file_names_it(file: Path) -> None:
    old, _ = ClientKey.objects.mint("web-app", aliases=["fast"])
    run("import_config", file, "--adopt")
    run("revoke_client_key", old.id)
    said = run("import_config", file)
    assert "! keys.web-app: no such key yet: make it with create_client_key" in said
    old.refresh_from_db()
    assert not key_card(old).is_live(time.time())
    assert "web-app" not in run("export_config")
    run("create_client_key", "web-app")
    assert "keys.web-app" in run("import_config", file, "--adopt")
    new = ClientKey.objects.exclude(pk=old.pk).get()
    assert (new.aliases, new.source) == (["fast"], "file")
    assert diff(file) == ""
