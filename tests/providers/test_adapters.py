"""Adapters in rows, files and forms."""

import pytest

from providers import aliases
from providers.addresses import AddressPolicy
from providers.configfile import ConfigError, parse
from providers.forms import AliasForm
from providers.models import ModelAlias

POLICY = AddressPolicy([], development=False)
FILE = """
providers: {p: {preset: predibase, options: {tenant_id: t, deployment: d}}}
aliases: {fast: {routes: [{provider: p}], adapters: %s}}
"""


def test_a_file_gives_an_alias_its_adapters() -> None:
    (alias,) = parse(FILE % '["tickets/*", repo/3]', POLICY).aliases
    assert alias.settings["adapters"] == ["tickets/*", "repo/3"]


@pytest.mark.parametrize(
    "given",
    ["tickets/*", '["../x"]', '["a//b"]', '["a/../*"]', '["/a"]', '["a b"]', '["a#b"]', "[1]", '["a/*/b"]', '[""]'],
)
def test_a_pattern_that_cannot_be_one_is_refused_at_its_place(given: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(FILE % given, POLICY)
    assert all(problem.startswith("aliases.fast.adapters: ") for problem in caught.value.problems)


@pytest.mark.parametrize("pattern", ["*", "a/*", "a*", "a/b-*", "repo/1@7", "a_b/C.d/3"])
def test_good_patterns_stay_as_they_are(pattern: str) -> None:
    assert aliases.adapters([pattern, pattern]) == [pattern]


@pytest.mark.django_db
def test_the_form_takes_one_a_line_and_says_what_is_wrong() -> None:
    data = {"name": "fast", "strategy": "ordered", "enabled": "on", "adapters": "tickets/*\n\n repo/3 "}
    form = AliasForm(data)
    assert form.is_valid(), form.errors
    assert form.save(commit=False).adapters == ["tickets/*", "repo/3"]
    wrong = AliasForm({**data, "adapters": "tickets/../x"})
    assert wrong.errors["adapters"] == [
        "'tickets/../x' is no name or pattern of adapters such as tickets/3 or support/*."
    ]


@pytest.mark.django_db
def test_an_alias_of_an_older_version_has_none() -> None:
    ModelAlias.objects.create(name="fast")
    assert ModelAlias.objects.get(name="fast").adapters == []
