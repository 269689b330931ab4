"""docs/settings.md names every variable that the program reads, and no other."""

import ast
import re
from pathlib import Path

import pytest
import yaml

from providers.addresses import AddressPolicy
from providers.configfile import parse
from proxysite.env import BASE_DIR

PAGE = BASE_DIR / "docs" / "settings.md"
ROOMS = ("proxysite", "providers", "ledger", "gateway", "console")
NAME = re.compile(r"(DJANGO|GATEWAY|OPENAI|DATABASE|REDIS)_[A-Z_]+")
# Which settings there are is Django's own variable, and no choice of an operator.
NOT_OURS = {"DJANGO_SETTINGS_MODULE"}


def read_by_the_code() -> set[str]:
    """Every text in the rooms that is the name of a variable, whoever looks it up."""
    names: set[str] = set()
    for file in (file for room in ROOMS for file in (BASE_DIR / room).rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and NAME.fullmatch(node.value):
                names.add(node.value)
    return names - NOT_OURS


def documented() -> list[str]:
    return re.findall(r"^\| `([A-Z_]+)` \|", PAGE.read_text(), re.MULTILINE)


def test_every_variable_is_documented_once_and_nothing_else_is() -> None:
    assert sorted(documented()) == sorted(read_by_the_code())


@pytest.mark.parametrize("name", ["DJANGO_SECRET_KEY", "DATABASE_URL", "OPENAI_PROXY_KEY", "GATEWAY_HTTPS"])
def test_the_search_finds_what_is_read_in_the_settings_and_elsewhere(name: str) -> None:
    assert name in read_by_the_code()


def test_the_readme_names_no_variable_that_the_program_does_not_read() -> None:
    named = {name for name in re.findall(r"`([A-Z_]+)`", (BASE_DIR / "README.md").read_text()) if NAME.fullmatch(name)}
    assert named
    assert named <= read_by_the_code()


@pytest.mark.parametrize("page", ["docs/settings.md", "README.md"])
def test_the_configuration_files_of_the_documents_can_be_read(page: str) -> None:
    found = re.findall(r"^```yaml\n(.*?)^```", (BASE_DIR / page).read_text(), re.MULTILINE | re.DOTALL)
    assert found
    for text in found:
        assert set(yaml.safe_load(text)) <= {"providers", "aliases", "teams", "keys"}
        parse(text, AddressPolicy(["127.0.0.1:9000"], development=False))


def test_every_link_between_the_documents_leads_somewhere() -> None:
    pages = [BASE_DIR / "README.md", BASE_DIR / "CONTRIBUTING.md", *(BASE_DIR / "docs").glob("*.md")]
    for page in pages:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_every_file_that_the_readme_names_exists() -> None:
    for path in re.findall(r"`((?:scripts|docs|bench|requirements)/[a-z./]+)", (BASE_DIR / "README.md").read_text()):
        assert Path(BASE_DIR / path).exists(), path
