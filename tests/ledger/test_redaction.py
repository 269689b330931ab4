"""What is taken out of a payload, and what stays."""

import time

import pytest

from ledger.payloads import assembled, readable
from ledger.redaction import BadPattern, Redactor, compiled
from providers import keys
from tests.gateway import golden
from tests.scripted import event

redact = Redactor()


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("write to anna.b+c@mail.example.org, please", "write to [email], please"),
        ("4111 1111 1111 1111 and 5500-0000-0000-0004", "[card] and [card]"),
        ("card 4111111111111111.", "card [card]."),
        ("call +49 30 901820 or (212) 555-0123", "call [phone] or [phone]"),
        ("Telefon 030/901820", "Telefon [phone]"),
        pytest.param(f"key {keys.mint().token}", None, id="our own key"),
        ("sk-proj-abcdefghijklmnop1234", "sk-***"),
        ("Authorization: Bearer abcdefghijklmnop", "Authorization: ***"),
    ],
)
def test_secrets_and_what_names_people_is_taken_out(text: str, kept: str | None) -> None:
    found, count = redact.text(text)
    assert count >= 1
    if kept is not None:
        assert found == kept
    else:
        assert found.endswith("***")
        assert len(found) < 30


@pytest.mark.parametrize(
    "text",
    [
        "4111 1111 1111 1112 is no card",  # its check digit is wrong
        "version 1.2.3 of 2026-11-26, 12345678 rows, 3.14159265358979",
        "user@host and @mention",
        '{"temperature":0.7,"max_tokens":4096,"seed":1152921504606846976}',
    ],
)
def test_other_numbers_and_words_stay(text: str) -> None:
    assert redact.text(text) == (text, 0)


def test_own_patterns_are_used_first_and_counted() -> None:
    own = Redactor([r"(?i)project\s+\w+", r"\bP-\d{4}\b"])
    assert own.text("Project Falcon has P-1234 and P-99") == ("[redacted] has [redacted] and P-99", 2)


@pytest.mark.parametrize(
    "pattern", ["(", r"(a)\1", "(?=x)y", "a*", "x" * 501, "((a{1,900}){1,900}){1,900}", "(?P<n>a)(?P=n)"]
)
def test_a_pattern_that_cannot_be_used_safely_is_refused(pattern: str) -> None:
    with pytest.raises(BadPattern):
        compiled([pattern])


@pytest.mark.parametrize("pattern", [r"(a+)+$", r"(a|aa)+$", r"(.*a){20}b", r"^(([a-z])+.)+[A-Z]([a-z])+$"])
def test_a_pattern_that_would_hang_others_takes_no_time(pattern: str) -> None:
    began = time.process_time()
    Redactor([pattern]).text("a" * 262_144 + "!")
    assert time.process_time() - began < 5  # with Python's own engine: longer than the universe will last


@pytest.mark.parametrize(
    "text", ["a" * 262_144, "1 " * 131_072, "0" * 262_144, "a@" * 131_072, "(" * 262_144, "eyJ" * 80_000]
)
def test_the_built_in_patterns_take_hostile_text_in_their_stride(text: str) -> None:
    began = time.process_time()
    redact.text(text)
    assert time.process_time() - began < 5  # each begun anew at each place it would be minutes


def test_a_stream_is_put_together_before_it_is_looked_through() -> None:
    pieces = golden.chunks("Write to an", "na@exam", "ple.org")
    body = b"".join(map(event, pieces)) + b"data: [DONE]\n\n"
    whole = assembled(body)
    assert '"0.content":"Write to anna@example.org"' in whole
    assert '"finish_reasons":{"0":"stop"}' in whole
    assert '"usage"' in whole
    assert "anna" not in redact.text(whole)[0]
    assert "Write to [email]" in redact.text(whole)[0]


def test_tool_calls_and_events_of_the_responses_api_are_put_together_too() -> None:
    calls = [{"index": 0, "function": {"arguments": part}} for part in ('{"to":"anna@ex', 'ample.org"}')]
    chat = b"".join(event(golden.chunk({"tool_calls": [call]})) for call in calls)
    assert '{\\"to\\":\\"[email]\\"}' in redact.text(assembled(chat))[0]
    kind = "response.output_text.delta"
    deltas = [{"type": kind, "output_index": 0, "delta": part} for part in ("call +49 30 ", "901820")]
    answer = redact.text(assembled(b"".join(map(event, deltas))))[0]
    assert "call [phone]" in answer


def test_a_stream_that_is_cut_off_keeps_what_is_whole() -> None:
    body = event(golden.chunk({"content": "Hello"})) + b'data: {"choices":[{"index":0,"delta":{"content":"ha'
    assert '"0.content":"Hello"' in assembled(body)


def test_escapes_hide_nothing() -> None:
    assert redact.text(readable(b'{"content":"anna\\u0040example.org"}', stream=False))[0] == '{"content":"[email]"}'
    assert readable(b"\xff no JSON", stream=False) == "\ufffd no JSON"
