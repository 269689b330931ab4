"""The locks hold what pyproject.toml asks for: pinned, by hash, and without a word on where to fetch it."""

import re
import tomllib
from collections.abc import Iterator

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from proxysite.env import BASE_DIR

PROJECT = tomllib.loads((BASE_DIR / "pyproject.toml").read_text())
EXTRAS = PROJECT["project"]["optional-dependencies"]
RUNTIME = [*PROJECT["project"]["dependencies"], *EXTRAS["postgres"], *EXTRAS["redis"], *EXTRAS["redaction"]]
OTEL = [*RUNTIME, *EXTRAS["otel"]]
DEV = [*OTEL, *PROJECT["dependency-groups"]["dev"]]
HASH = re.compile(r" --hash=sha256:[0-9a-f]{64}")


def entries(name: str) -> Iterator[tuple[Requirement, str]]:
    """Each entry of a lock: the requirement, and the text of its hashes."""
    text = (BASE_DIR / "requirements" / name).read_text().replace("\\\n", "")
    for line in text.splitlines():
        if line.strip() and not line.lstrip().startswith("#"):
            requirement, hashes = line.split(" --hash=", 1)
            yield Requirement(requirement), " --hash=" + hashes


@pytest.mark.parametrize(("name", "wanted"), [("runtime.txt", RUNTIME), ("otel.txt", OTEL), ("dev.txt", DEV)])
def test_a_lock_satisfies_every_requirement(name: str, wanted: list[str]) -> None:
    pinned = {canonicalize_name(entry.name): str(entry.specifier).removeprefix("==") for entry, _ in entries(name)}
    for requirement in map(Requirement, wanted):
        assert requirement.specifier.contains(pinned[canonicalize_name(requirement.name)]), requirement


@pytest.mark.parametrize("name", ["runtime.txt", "otel.txt", "dev.txt"])
def test_every_entry_is_one_version_with_hashes_and_no_place(name: str) -> None:
    found = list(entries(name))
    assert len({entry.name for entry, _ in found}) == len(found) > 20
    for entry, hashes in found:
        assert str(entry.specifier).startswith("=="), entry
        assert entry.url is None
        assert HASH.sub("", hashes).strip() == "", entry
    assert "://" not in (BASE_DIR / "requirements" / name).read_text()


def test_the_tests_run_with_the_versions_that_are_shipped() -> None:
    dev = {(entry.name, str(entry.specifier)) for entry, _ in entries("dev.txt")}
    otel = {(entry.name, str(entry.specifier)) for entry, _ in entries("otel.txt")}
    assert {(entry.name, str(entry.specifier)) for entry, _ in entries("runtime.txt")} <= otel <= dev
