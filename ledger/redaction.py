"""What is taken out of a captured payload before anybody keeps it (pure).

The built-in patterns have bounds in all of their repetitions. An operator's own are run by RE2, whose time grows with
the text and not with its square or worse: https://github.com/google/re2/wiki/WhyRE2.
"""

import re
from collections.abc import Iterable
from typing import Any

from providers.scrubbing import Scrubber

MAX_PATTERNS = 50
MAX_PATTERN = 500  # characters
MEMORY = 8 << 20  # bytes that RE2 may take for one pattern; a larger one is refused

EMAIL = re.compile(r"(?<![\w.+-])[\w.+-]{1,64}@(?:[A-Za-z0-9-]{1,63}\.){1,8}[A-Za-z]{2,24}")
CARD = re.compile(r"(?<![\d.-])\d(?:[ -]?\d){12,18}(?![\d-])")
# International, or with an area code in front: a bare run of digits may be anything.
PHONE = re.compile(
    r"(?<![\w.+-])(?:(?:\+|00)[1-9](?:[ ()./-]{0,2}\d){7,13}"
    r"|\(?0\d{1,4}\)?(?:[ /-]\d{2,8}){1,4}"
    r"|\(?\d{3}\)?[ .-]\d{3}[ .-]\d{4})(?![\w-])"
)


class BadPattern(ValueError):
    """A pattern of the operator's own cannot be used; the message says why."""


class Redactor:
    """`text` gives a text without what the rules find, and how often they found something."""

    def __init__(self, patterns: Iterable[str] = ()) -> None:
        """Raises BadPattern."""
        self.scrub = Scrubber()
        self.own = compiled(list(patterns))

    def text(self, text: str) -> tuple[str, int]:
        count = 0
        for pattern in self.own:
            text, found = pattern.subn("[redacted]", text)
            count += found
        scrubbed = self.scrub(text.encode("utf-8", "replace")).decode()
        count += scrubbed.count("***") - text.count("***")
        text, found = EMAIL.subn("[email]", scrubbed)
        text, cards = _cards(text)
        text, phones = PHONE.subn("[phone]", text)
        return text, count + found + cards + phones


def compiled(patterns: list[str]) -> list[Any]:
    """RE2's own patterns; raises BadPattern for what it does not take, or where it is not installed."""
    if not patterns:
        return []
    try:
        import re2
    except ImportError:
        raise BadPattern("patterns need the package google-re2 (the extra `redaction`)") from None
    if len(patterns) > MAX_PATTERNS:
        raise BadPattern(f"there are more than {MAX_PATTERNS} patterns")
    options = re2.Options()
    options.max_mem, options.log_errors = MEMORY, False
    found = []
    for pattern in patterns:
        if len(pattern) > MAX_PATTERN:
            raise BadPattern(f"the pattern {pattern[:40]!r}... is longer than {MAX_PATTERN} characters")
        try:
            one = re2.compile(pattern, options)
        except re2.error as error:
            raise BadPattern(f"the pattern {pattern!r} cannot be used: {_words(error)}") from None
        if one.search(""):
            raise BadPattern(f"the pattern {pattern!r} matches nothing at all, and so everywhere")
        found.append(one)
    return found


def _words(error: Exception) -> str:
    said = error.args[0] if error.args else error
    return said.decode("utf-8", "replace") if isinstance(said, bytes) else str(said)


def _cards(text: str) -> tuple[str, int]:
    count = 0

    def hide(match: "re.Match[str]") -> str:
        nonlocal count
        digits = [int(digit) for digit in match[0] if digit.isdigit()]
        if not _luhn(digits):
            return match[0]
        count += 1
        return "[card]"

    return CARD.sub(hide, text), count


def _luhn(digits: list[int]) -> bool:
    """https://www.iso.org/standard/70484.html, annex B: the check digit of card numbers."""
    doubled = [digit if place % 2 == 0 else digit * 2 - 9 * (digit > 4) for place, digit in enumerate(reversed(digits))]
    return sum(doubled) % 10 == 0
