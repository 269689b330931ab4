"""The configuration of the environment: merged into the catalog, never stored."""

import json
from pathlib import Path

import pytest
from pytest_django import Settings

from providers import keys, overlay, peppers
from providers.configfile import ConfigError
from providers.overlay_checks import check_overlay
from providers.secret import Secret
from providers.targets import RouteCard

STRONG = "an-Own-Key-From-2019-q7Zr4"


@pytest.fixture(autouse=True)
def _clean(settings: Settings) -> None:
    settings.DEVELOPMENT = True
    settings.GATEWAY_CONFIG = settings.OPENAI_SERVER_URL = ""
    settings.GATEWAY_PRIVATE_UPSTREAMS = []


@pytest.fixture
def config(settings: Settings, tmp_path: Path) -> Path:
    settings.GATEWAY_CONFIG = str(tmp_path / "gateway.yaml")
    return tmp_path / "gateway.yaml"


def test_nothing_set_is_nothing_configured() -> None:
    assert overlay.load({}) == overlay.Overlay()


def test_the_variables_make_a_provider_an_alias_for_all_names_and_a_key(settings: Settings) -> None:
    settings.OPENAI_SERVER_URL = "https://api.openai.com"
    found = overlay.load({"OPENAI_SERVER_KEY": "sk-up", "OPENAI_PROXY_KEY": STRONG})
    (provider,), (alias,), (key,) = found.providers, found.aliases, found.keys
    assert (provider.name, provider.dialect, provider.base_url) == (
        "openai-server",
        "openai",
        "https://api.openai.com/v1",
    )
    assert provider.enabled
    assert [credential.secret for credential in provider.credentials] == [Secret("sk-up")]
    assert (alias.name, alias.routes) == ("*", (RouteCard(provider.id),))
    pepper_id, pepper = peppers.primary()
    assert (key.name, key.pepper_id, key.digest) == ("OPENAI_PROXY_KEY", pepper_id, keys.digest(pepper, STRONG))
    assert key.aliases == ("*",)
    assert key.is_live(2e9)
    assert found.problems == ()
    assert "sk-up" not in repr(found)
    assert STRONG not in repr(found)


def test_a_server_without_a_key_is_called_without_one(settings: Settings) -> None:
    settings.OPENAI_SERVER_URL = "http://127.0.0.1:11434/v1"
    (provider,) = overlay.load({}).providers
    assert provider.credentials == ()
    assert provider.enabled


def test_a_server_key_without_an_address_is_said(settings: Settings) -> None:
    found = overlay.load({"OPENAI_SERVER_KEY": "sk-up"})
    assert found.providers == ()
    assert [problem.place for problem in found.problems] == ["OPENAI_SERVER_KEY"]


def test_a_bad_server_address_is_refused_by_name(settings: Settings) -> None:
    settings.DEVELOPMENT = False
    settings.OPENAI_SERVER_URL = "http://127.0.0.1:11434/v1"
    with pytest.raises(ConfigError, match=r"OPENAI_SERVER_URL: Plain http.*GATEWAY_PRIVATE_UPSTREAMS"):
        overlay.load({})


def test_secrets_may_come_from_files(settings: Settings, tmp_path: Path) -> None:
    settings.OPENAI_SERVER_URL = "https://api.openai.com/v1"
    (tmp_path / "key").write_text("sk-from-file\n")
    (provider,) = overlay.load({"OPENAI_SERVER_KEY_FILE": str(tmp_path / "key")}).providers
    assert provider.credentials[0].secret.reveal() == "sk-from-file"


def test_a_key_of_our_own_form_keeps_the_id_that_it_carries() -> None:
    minted = keys.mint()
    (key,) = overlay.load({"OPENAI_PROXY_KEY": minted.token}).keys
    assert key.id == minted.id


def test_a_damaged_key_of_our_own_form_is_left_out() -> None:
    found = overlay.load({"OPENAI_PROXY_KEY": keys.mint().token[:-1]})
    assert found.keys == ()
    assert [problem.wrong for problem in found.problems] == ["is damaged, or holds characters that no key has"]


WEAK = ["sk-1234", "a" * 40, "changeme-changeme-changeme", "your-openai-proxy-key-here", "x" * 19]


@pytest.mark.parametrize("token", WEAK)
def test_a_guessable_key_works_in_development_only(settings: Settings, token: str) -> None:
    assert len(overlay.load({"OPENAI_PROXY_KEY": token}).keys) == 1
    settings.DEVELOPMENT = False
    found = overlay.load({"OPENAI_PROXY_KEY": token})
    assert found.keys == ()
    assert [problem.weak for problem in found.problems] == [True]


@pytest.mark.parametrize(
    ("debug", "message_id", "level"), [(True, "providers.W002", 30), (False, "providers.E002", 40)]
)
def test_the_check_of_a_guessable_key_offers_a_fresh_one(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, debug: bool, message_id: str, level: int
) -> None:
    settings.DEVELOPMENT = debug
    monkeypatch.setenv("OPENAI_PROXY_KEY", "sk-1234")
    first, second = check_overlay()[0], check_overlay()[0]
    assert (first.id, first.level) == (message_id, level)
    assert "sk-1234" not in first.msg
    offered = str(first.hint).rpartition(" ")[2]
    assert isinstance(keys.parse(offered), keys.Parsed)
    assert first.hint != second.hint


def test_the_check_names_each_fault_of_the_file(settings: Settings, config: Path) -> None:
    config.write_text("{providers: {lab: {preset: x}}, aliases: {f: {}}}")
    assert [message.id for message in check_overlay()] == ["providers.E001"] * 3
    config.write_text("{providers: {lab: {preset: openai, credentials: {main: env:NOT_SET_ANYWHERE}}}}")
    (message,) = check_overlay()
    assert message.id == "providers.W003"
    assert message.msg == ("providers.lab.credentials.main the environment variable NOT_SET_ANYWHERE is not set.")
    config.write_text("{providers: {lab: {preset: openai}}}")
    assert check_overlay() == []


def test_an_unreadable_setting_is_named(settings: Settings) -> None:
    settings.GATEWAY_PRIVATE_UPSTREAMS = ["nonsense"]
    (message,) = check_overlay()
    assert message.msg.startswith("GATEWAY_PRIVATE_UPSTREAMS: 'nonsense' is neither")


def test_the_file_makes_cards_with_its_references_resolved(config: Path) -> None:
    config.write_text(
        json.dumps(
            {
                "providers": {"lab": {"preset": "mistral", "credentials": {"b": "env:B", "a": "env:A"}}},
                "aliases": {
                    "fast": {"strategy": "weighted", "routes": [{"provider": "lab", "model": "m", "weight": 3}]},
                    "off": {"enabled": False, "routes": [{"provider": "lab"}]},
                },
                "keys": {"web": {"existing": "env:WEB", "aliases": ["fast"], "expires_at": "2030-01-31T00:00:00Z"}},
            }
        )
    )
    found = overlay.load({"A": "1", "B": "2", "WEB": STRONG})
    (provider,), (alias,), (key,) = found.providers, found.aliases, found.keys
    assert [(card.name, card.secret.reveal()) for card in provider.credentials] == [("a", "1"), ("b", "2")]
    assert provider.quirks.rename["seed"] == "random_seed"
    assert (alias.name, alias.strategy, alias.routes) == ("fast", "weighted", (RouteCard(provider.id, "m", 3),))
    assert (key.name, key.aliases, key.expires_at) == ("web", ("fast",), 1896048000.0)
    assert overlay.load({"A": "3", "B": "2", "WEB": STRONG}).providers[0].credentials[0].secret.reveal() == "3"
    assert overlay.load({"A": "1", "B": "2", "WEB": STRONG}) == found


def test_a_provider_without_any_of_its_credentials_is_not_called(config: Path) -> None:
    config.write_text("{providers: {lab: {preset: openai, credentials: {a: env:A, b: env:B}}}}")
    assert overlay.load({"B": "2"}).providers[0].enabled
    found = overlay.load({})
    assert not found.providers[0].enabled
    assert [problem.place for problem in found.problems] == [
        "providers.lab.credentials.a",
        "providers.lab.credentials.b",
    ]


def test_a_key_without_a_value_is_said(config: Path) -> None:
    config.write_text("{keys: {web: {}}}")
    found = overlay.load({})
    assert found.keys == ()
    assert [problem.place for problem in found.problems] == ["keys.web"]


def test_the_files_own_alias_for_all_names_holds(settings: Settings, config: Path) -> None:
    settings.OPENAI_SERVER_URL = "https://api.openai.com/v1"
    config.write_text("{providers: {lab: {preset: openai}}, aliases: {'*': {routes: [{provider: lab}]}}}")
    found = overlay.load({})
    lab = next(card for card in found.providers if card.name == "lab")
    assert [alias.routes for alias in found.aliases] == [(RouteCard(lab.id),)]


def test_the_file_may_not_take_the_name_of_the_variables_provider(settings: Settings, config: Path) -> None:
    settings.OPENAI_SERVER_URL = "https://api.openai.com/v1"
    config.write_text("{providers: {openai-server: {preset: openai}}}")
    with pytest.raises(ConfigError, match=r"providers\.openai-server"):
        overlay.load({})


def test_a_file_that_cannot_be_read_is_named(settings: Settings, config: Path) -> None:
    with pytest.raises(ConfigError, match=r"GATEWAY_CONFIG: .*gateway\.yaml cannot be read \(FileNotFoundError\)"):
        overlay.load({})
