"""The published expressions find every key that the gateway makes."""

import re
import tomllib
from pathlib import Path

from providers import ephemeral, keys
from providers.ephemeral import Claims

DOCS = Path(__file__).parents[2] / "docs"
RULES = {rule["id"]: rule["regex"] for rule in tomllib.loads((DOCS / "gitleaks.toml").read_text())["rules"]}


def token(number: int) -> str:
    return ephemeral.seal("k1", bytes(range(32)), Claims("id", "abcdefghij", "u" * number, 1, 2))


def test_the_rules_find_keys_in_any_text_and_whole() -> None:
    for number in range(1, 200):
        for rule, found in (("secret-key", keys.mint("sk").token), ("ephemeral-token", token(number))):
            for text in (f'key = "{found}"', f"https://x/?k={found}&a", f"Bearer {found}\n"):
                match = re.search(RULES[f"llm-gateway-{rule}"], text)
                assert match is not None, text
                assert match[0] == found


def test_the_rules_leave_alone_what_is_made_to_be_seen_and_what_is_none() -> None:
    for text in (keys.mint("pk").token, "sk-gw-...", "sk-proj-" + "a" * 60, keys.mint("sk").token[:-1], "ek-gw-x"):
        assert not any(re.search(rule, text) for rule in RULES.values()), text


def test_the_page_shows_the_same_expressions() -> None:
    shown = (DOCS / "keys.md").read_text().replace("\\|", "|")
    assert RULES["llm-gateway-ephemeral-token"] in shown
    assert RULES["llm-gateway-secret-key"].replace("sk-gw", "(sk|pk)-gw") in shown
