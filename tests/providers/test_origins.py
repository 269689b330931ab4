"""Web origins: how they are written down, and which pages they let in."""

import pytest

from providers import origins


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("https://app.example.com", "https://app.example.com"),
        (" HTTPS://App.Example.com:443 ", "https://app.example.com"),
        ("https://app.example.com:8443", "https://app.example.com:8443"),
        ("https://*.example.com", "https://*.example.com"),
        ("http://localhost:3000", "http://localhost:3000"),
        ("http://127.0.0.1", "http://127.0.0.1"),
        ("http://[::1]:80", "http://[::1]"),
        ("capacitor://localhost", "capacitor://localhost"),
        ("chrome-extension://abcdefghijklmnopabcdefghijklmnop", "chrome-extension://abcdefghijklmnopabcdefghijklmnop"),
    ],
)
def test_an_origin_is_kept_in_the_form_in_which_a_browser_sends_it(given: str, kept: str) -> None:
    assert origins.check(given) == kept


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ("*", "no origin"),
        ("null", "no origin"),
        ("https://app.example.com/", "no origin"),
        ("https://app.example.com/chat", "no origin"),
        ("https://user@app.example.com", "no origin"),
        ("https://*.*.example.com", "no origin"),
        ("https://app.*.com", "no origin"),
        ("https://exämple.com", "no origin"),
        ("https://a\r\nx: y", "no origin"),
        ("https://" + "a" * 400 + ".com", "no origin"),
        ("https://*.com", "too wide"),
        ("http://*.localhost", "too wide"),
        ("http://app.example.com", "plain http"),
        ("ftp://app.example.com", "scheme"),
        ("javascript://app.example.com", "scheme"),
        ("https://app.example.com:0", "port"),
        ("https://app.example.com:99999", "port"),
    ],
)
def test_what_is_no_origin_is_refused_and_says_why(given: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        origins.check(given)


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        ("https://app.example.com", True),
        ("https://a.wild.example", True),
        ("https://a.b.wild.example", True),
        ("https://a.port.example:8443", True),
        ("http://localhost:3000", True),
        ("https://app.example.com.evil.test", False),
        ("https://evilapp.example.com", False),
        ("https://app.example.com:8443", False),
        ("http://app.example.com", False),
        ("https://wild.example", False),
        ("https://evilwild.example", False),
        ("http://a.wild.example", False),
        ("https://a.wild.example:444", False),
        ("https://a.port.example", False),
        ("https://evil.test/.wild.example", False),
        ("https://evil.test#.wild.example", False),
        ("https://*.wild.example.evil", False),
        ("http://localhost:3001", False),
        ("null", False),
        ("", False),
    ],
)
def test_a_page_is_let_in_by_its_own_origin_or_a_pattern_above_it(origin: str, allowed: bool) -> None:
    patterns = (
        *("https://app.example.com", "https://*.wild.example"),
        *("https://*.port.example:8443", "http://localhost:3000"),
    )
    assert origins.allows(patterns, origin) is allowed
    assert origins.allows(frozenset(patterns), origin) is allowed
