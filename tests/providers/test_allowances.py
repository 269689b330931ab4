"""Limits, budgets and scopes in the configuration file, at the command line and in the catalog."""

import io
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import yaml
from django.core.exceptions import ValidationError
from django.core.management import CommandError, call_command
from pytest_django import Settings

from providers import allowances, keyring, overlay
from providers.addresses import AddressPolicy
from providers.cards import key_card
from providers.catalog import Reader, current
from providers.configfile import ConfigError, parse
from providers.models import ClientKey, ModelAlias, Team
from providers.targets import BudgetCard, KeyCard, Limits
from tests.providers.conftest import Clock

TEXT = """
providers:
  mistral: {preset: mistral, credentials: {main: env:MISTRAL_API_KEY}}
  lab:     {dialect: openai, base_url: "http://127.0.0.1:9000/v1", credentials: {main: env:LAB_KEY},
            options: {}, quirks: {}, timeouts: {first_byte: 60, gap: 60, total: 600}}
aliases:
  fast:    {strategy: ordered, rpm: 100,
            routes: [{provider: lab, model: gpt-4o}, {provider: mistral, model: mistral-large-latest, weight: 1}]}
  "lab/*": {routes: [{provider: lab}]}
teams:
  web: {rpm: 6000, budget: 50/month}
keys:
  web-app: {kind: secret, aliases: [fast], rpm: 600}
  other:
    existing: env:OTHER_KEY
    team: web
    tpm: 90000
    concurrency: 5
    budget: 5.00/month, 1/day
    budget_alerts: [90, 50]
    endpoints: [chat.completions]
    max_tokens: 100
    max_n: 2
    cidrs: [192.0.2.1/24]
    tags: {cost_centre: "4711"}
    end_user_rpm: 6
    end_user_budget: 0.10/day
    unknown_price: "0.05"
"""
POLICY = AddressPolicy(["127.0.0.1:9000"], development=False)
FOREIGN = "an-Own-Key-From-2019-q7Zr4"


@pytest.fixture
def file(tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Path:
    settings.DEVELOPMENT = True
    monkeypatch.setenv("OTHER_KEY", FOREIGN)
    path = tmp_path / "gateway.yaml"
    path.write_text(TEXT)
    return path


def run(*args: Any) -> str:
    out = io.StringIO()
    call_command(*map(str, args), stdout=out, stderr=io.StringIO())
    return out.getvalue()


def check_other(card: KeyCard) -> None:
    owner = card.id
    assert card.limits == Limits(tpm=90_000, concurrency=5)
    assert card.end_user_limits == Limits(rpm=6)
    assert card.budgets == (
        BudgetCard(f"key:{owner}:month", "key", Decimal("5.00"), "month", (50, 90)),
        BudgetCard(f"key:{owner}:day", "key", Decimal(1), "day", (50, 90)),
    )
    assert card.end_user_budget == BudgetCard(f"end_user:{owner}:day", "end_user", Decimal("0.10"), "day", (50, 90))
    assert (card.endpoints, card.max_tokens, card.max_n) == (("chat.completions",), 100, 2)
    assert (card.cidrs, card.tags) == (("192.0.2.0/24",), {"cost_centre": "4711"})
    assert (card.unknown_price, card.unknown_price_charge) == ("charge", Decimal("0.05"))
    assert card.team is not None
    assert (card.team.name, card.team.limits) == ("web", Limits(rpm=6000))
    assert [(budget.scope, budget.amount) for budget in card.team.budgets] == [("team", Decimal(50))]


@pytest.mark.django_db
def test_a_file_with_every_setting_is_imported_and_exported_again(file: Path, tmp_path: Path) -> None:
    ClientKey.objects.mint("web-app")
    run("import_config", file, "--adopt")
    assert "0 changed." in run("import_config", file)
    check_other(key_card(ClientKey.objects.get(name="other")))
    assert ClientKey.objects.get(name="web-app").rpm == 600
    assert ModelAlias.objects.get(name="fast").rpm == 100
    exported = run("export_config")
    given = yaml.safe_load(exported)
    assert given["teams"] == {"web": {"rpm": 6000, "budget": "50/month"}}
    assert given["keys"]["web-app"] == {"aliases": ["fast"], "rpm": 600}
    again = tmp_path / "again.yaml"
    again.write_text(exported)
    assert "0 changed." in run("import_config", again)
    file.write_text("{}")
    run("import_config", file, "--prune")
    assert (Team.objects.count(), ClientKey.objects.count()) == (0, 0)


def test_a_file_over_the_database_gives_the_same_cards(file: Path, settings: Settings) -> None:
    settings.GATEWAY_CONFIG = str(file)
    settings.GATEWAY_BUDGET = "500/month"
    found = overlay.load({"OTHER_KEY": FOREIGN})
    (card,) = found.keys
    check_other(card)
    assert {alias.name: alias.limits for alias in found.aliases} == {"fast": Limits(rpm=100), "lab/*": Limits()}
    assert found.gateway_budgets == (BudgetCard("gateway:month", "gateway", Decimal(500), "month", (80, 100)),)
    settings.GATEWAY_BUDGET = "500"
    with pytest.raises(ConfigError, match="GATEWAY_BUDGET: 500 has no period"):
        overlay.load({"OTHER_KEY": FOREIGN})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{keys: {k: {rpm: -1}}}", "keys.k.rpm: must be a whole number from 0 to 2000000000"),
        ("{keys: {k: {rpm: true}}}", "keys.k.rpm: must be a whole number"),
        ("{keys: {k: {tpm: 1.5}}}", "keys.k.tpm: must be a whole number"),
        ("{keys: {k: {budget: 5}}}", "keys.k.budget: must be a text such as 5.00/month"),
        ("{keys: {k: {budget: 5/week}}}", "keys.k.budget: 5/week has no period"),
        ("{keys: {k: {budget: 1e9/day}}}", "keys.k.budget: 1e9 is no amount of US dollars"),
        ("{keys: {k: {budget: 0.0000001/day}}}", "keys.k.budget: 0.0000001 is no amount of US dollars"),
        ("{keys: {k: {budget_alerts: 80}}}", "keys.k.budget_alerts: must be a list of at most 10 percentages"),
        ("{keys: {k: {budget_alerts: [0]}}}", "keys.k.budget_alerts: 0 is no whole percentage"),
        (
            "{keys: {k: {endpoints: [chat]}}}",
            "keys.k.endpoints: there is no endpoint 'chat'; there are",
        ),
        ("{keys: {k: {endpoints: chat.completions}}}", "keys.k.endpoints: must be a list of at most 100 texts"),
        ("{keys: {k: {cidrs: [localhost]}}}", "keys.k.cidrs: 'localhost' is no network"),
        ("{keys: {k: {max_tokens: 0}}}", "keys.k.max_tokens: must be at least 1"),
        ("{keys: {k: {tags: [a]}}}", "keys.k.tags: must be at most 20 names with texts"),
        ("{keys: {k: {unknown_price: maybe}}}", "keys.k.unknown_price: must be allow, block, or the US dollars"),
        ("{keys: {k: {team: web}}}", 'keys.k.team: no team named "web"'),
        ("{teams: {web: {concurrency: x}}}", "teams.web.concurrency: must be a whole number"),
        ("{teams: {web: {aliases: [x]}}}", "teams.web.aliases: is not known; there are budget, budget_alerts,"),
        ("{aliases: {a: {routes: [{}], rpm: x}}}", "aliases.a.rpm: must be a whole number"),
    ],
)
def test_what_is_wrong_in_a_file_is_named_by_its_path(text: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text, POLICY)
    assert any(problem.startswith(said) for problem in caught.value.problems), caught.value.problems


@pytest.mark.django_db
def test_the_command_line_has_every_limit() -> None:
    Team.objects.create(name="web")
    run(
        *("create_client_key", "app", "--rpm", "600", "--burst", "60", "--tpm", "9000", "--concurrency", "5"),
        *("--budget", "5.00/month", "--team", "web", "--endpoint", "embeddings", "--endpoint", "completions"),
        *("--cidr", "192.0.2.0/24", "--max-tokens", "100", "--max-n", "1", "--unknown-price", "block"),
    )
    row = ClientKey.objects.get()
    assert (row.rpm, row.burst, row.tpm, row.concurrency, row.budget) == (600, 60, 9000, 5, "5.00/month")
    assert row.team is not None
    assert (row.team.name, row.endpoints, row.cidrs) == ("web", ["embeddings", "completions"], ["192.0.2.0/24"])
    assert (row.max_tokens, row.max_n, row.unknown_price) == (100, 1, "block")


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--rpm", "-5", "No key was created: rpm must be a whole number"),
        ("--budget", "5.00", "No key was created: budget 5.00 has no period"),
        ("--team", "nobody", "No key was created: there is no team named 'nobody'"),
        ("--endpoint", "chat", "No key was created: endpoints there is no endpoint 'chat'"),
        ("--cidr", "home", "No key was created: cidrs 'home' is no network"),
    ],
)
def test_what_is_wrong_at_the_command_line_creates_no_key(option: str, value: str, said: str) -> None:
    with pytest.raises(CommandError) as caught:
        run("create_client_key", "app", f"{option}={value}")
    assert str(caught.value).startswith(said)
    assert not ClientKey.objects.exists()


@pytest.mark.django_db
def test_what_a_row_says_wrongly_stands_at_its_field_and_keeps_the_key_out() -> None:
    row, token = ClientKey.objects.mint("app")
    row.budget, row.cidrs, row.max_n = "5 dollars", ["x"], 0
    with pytest.raises(ValidationError) as caught:
        row.full_clean()
    assert set(caught.value.message_dict) == {"budget", "cidrs", "max_n"}
    ClientKey.objects.update(budget="5 dollars")
    keyring.forget(None)
    assert keyring.load(token) is None


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("fresh")
def test_a_change_of_a_team_is_seen_by_all_its_keys_at_the_next_look(clock: Clock) -> None:
    team = Team.objects.create(name="web", rpm=60)
    _, token = ClientKey.objects.mint("app", team=team)
    foreign = ClientKey.objects.adopt(FOREIGN, name="foreign", team=team)
    reader = Reader(wall=clock.wall, monotonic=clock.monotonic)
    assert reader.load()

    def limits() -> list[int]:
        own, other = keyring.load(token), keyring.find(FOREIGN)
        assert isinstance(own, KeyCard)
        assert isinstance(other, KeyCard)
        assert other.id == foreign.id
        assert own.team is not None
        assert other.team is not None
        return [own.team.limits.rpm, other.team.limits.rpm]

    assert limits() == [60, 60]
    Team.objects.update(rpm=90)
    clock.move(1)
    assert reader.refresh()
    found = keyring.find(token)
    assert found is keyring.MISSING
    assert limits() == [90, 90]


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("fresh")
def test_compromised_keys_are_in_the_catalog_for_a_day(clock: Clock) -> None:
    row, _ = ClientKey.objects.mint("app")
    reader = Reader(wall=clock.wall, monotonic=clock.monotonic)
    assert reader.load()
    assert current().compromised == frozenset()
    run("rotate_client_key", row.id, "--compromised")
    clock.move(1)
    assert reader.refresh()
    assert current().compromised == {row.id}
    reader = Reader(wall=clock.wall, monotonic=clock.monotonic)
    assert reader.load()
    assert current().compromised == {row.id}


def test_every_endpoint_that_a_key_can_be_bound_to_exists() -> None:
    from gateway.parsing.operations import FAMILIES

    assert {*FAMILIES.values(), allowances.OTHER} == set(allowances.ENDPOINTS)
