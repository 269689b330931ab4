"""The newest heading of the changelog is the version."""

import re
from pathlib import Path

import pytest

from proxysite import version
from proxysite.env import BASE_DIR


@pytest.fixture
def changelog(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(version, "BASE_DIR", tmp_path)
    version.version.cache_clear()
    return tmp_path / "CHANGELOG.md"


def test_the_newest_heading_is_the_version(changelog: Path) -> None:
    changelog.write_text("# Changelog\n\n## [Unreleased]\n\n## [1.12.3] - 2027-01-02\n\n## [1.12.2] - 2027-01-01\n")
    assert version.version() == "1.12.3"


def test_the_file_is_read_once(changelog: Path) -> None:
    changelog.write_text("## [1.0.0]\n")
    assert version.version() == "1.0.0"
    changelog.unlink()
    assert version.version() == "1.0.0"


def test_a_changelog_without_a_version_is_an_error(changelog: Path) -> None:
    changelog.write_text("# Changelog\n")
    with pytest.raises(RuntimeError, match=r"no heading of the form ## \[1\.2\.3\]"):
        version.version()


def test_the_projects_changelog_has_one() -> None:
    version.version.cache_clear()
    assert f"## [{version.version()}]" in (BASE_DIR / "CHANGELOG.md").read_text()


def test_the_version_stands_nowhere_else() -> None:
    project = (BASE_DIR / "pyproject.toml").read_text()
    assert 'dynamic = ["version"]' in project
    assert not re.search(r"^version\s*=", project, re.MULTILINE)
