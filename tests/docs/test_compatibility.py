"""docs/compatibility.md says what the tests show, and nothing else: each of its lines hangs on tests that are run."""

from tests.docs import compatibility


def test_the_tests_that_are_named_are_there() -> None:
    assert list(compatibility.missing()) == []


def test_the_page_is_current() -> None:
    text = compatibility.PAGE.read_text()
    assert compatibility.with_tables(text) == text, "run: python -m tests.docs.compatibility"
