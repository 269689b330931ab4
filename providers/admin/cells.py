"""Cells of lists: two things that belong together share a column, so that the list fits the screen."""

from django.utils.html import format_html
from django.utils.safestring import SafeString


def two_lines(first: str, second: str) -> SafeString:
    """The second stands quietly under the first; what is the same, or is not there, is not said twice."""
    if not second or second == first:
        return format_html("{}", first or "-")
    return format_html('{}<br><span class="quiet">{}</span>', first or "-", second)
