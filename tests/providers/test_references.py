from pathlib import Path

import pytest

from providers import aliases, references


def test_a_reference_reads_the_variable() -> None:
    assert references.resolve("env:LAB_KEY", {"LAB_KEY": " sk-1\n"}).reveal() == "sk-1"


def test_a_reference_reads_the_file_that_the_variable_names(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("sk-2\n")
    assert references.resolve("env:LAB_KEY", {"LAB_KEY_FILE": str(tmp_path / "key")}).reveal() == "sk-2"


@pytest.mark.parametrize(
    ("reference", "environ", "message"),
    [
        ("env:LAB_KEY", {}, "the environment variable LAB_KEY is not set"),
        ("env:LAB_KEY", {"LAB_KEY": "  "}, "the environment variable LAB_KEY is not set"),
        ("env:LAB_KEY", {"LAB_KEY_FILE": "/nowhere/key"}, "the file that LAB_KEY_FILE names cannot be read"),
        ("sk-live-1", {}, "a reference is of the form env:NAME or ssm:NAME"),
        ("env:", {}, "a reference is of the form env:NAME or ssm:NAME"),
        ("env:A B", {}, "a reference is of the form env:NAME or ssm:NAME"),
        ("vault:A", {}, "a reference is of the form env:NAME or ssm:NAME"),
    ],
)
def test_a_reference_that_leads_nowhere_says_so_without_any_value(
    reference: str, environ: dict[str, str], message: str
) -> None:
    with pytest.raises(references.BadReference) as caught:
        references.resolve(reference, environ)
    assert str(caught.value) == message


@pytest.mark.parametrize("name", ["fast", "mistral/*", "*", "a b", "meta-llama/Llama-3:free"])
def test_the_name_of_an_alias_is_exact_or_has_one_star_at_its_end(name: str) -> None:
    aliases.check(name)


@pytest.mark.parametrize("name", ["", "a*b", "**", "*/x", " a", "a ", "a\nb", "x" * 201, None, 7])
def test_other_names_are_refused(name: object) -> None:
    with pytest.raises(ValueError, match=r"alias|spaces|only the last"):
        aliases.check(name)


def test_a_keys_aliases_are_a_list() -> None:
    aliases.check_all(["fast", "mistral/*"])
    with pytest.raises(ValueError, match="the aliases are a list"):
        aliases.check_all("fast")
