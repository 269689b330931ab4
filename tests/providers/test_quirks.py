import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from providers import edits, quirks, timeouts
from providers.targets import ErrorRule, Quirks, Timeouts


def edited(declared: dict[str, object], body: dict[str, object]) -> dict[str, object]:
    raw = {name: msgspec.Raw(msgspec.json.encode(value)) for name, value in body.items()}
    edits.apply(quirks.parse(declared), raw)
    return {name: msgspec.json.decode(value) for name, value in raw.items()}


@pytest.mark.parametrize(
    ("declared", "body", "expected"),
    [
        ({}, {"model": "m", "x": 1}, {"model": "m", "x": 1}),
        ({"drop": ["user", "seed"]}, {"model": "m", "user": "u"}, {"model": "m"}),
        ({"rename": {"max_tokens": "max_completion_tokens"}}, {"max_tokens": 5}, {"max_completion_tokens": 5}),
        ({"rename": {"a": "b"}}, {"a": 1, "b": 2}, {"a": 1, "b": 2}),
        ({"rename": {"a": "b"}}, {"c": 1}, {"c": 1}),
        ({"set": {"safe_prompt": True, "a": {"b": [1]}}}, {"a": 0}, {"a": {"b": [1]}, "safe_prompt": True}),
        ({"drop": ["b"], "rename": {"a": "b"}, "set": {"c": None}}, {"a": 1, "b": 2}, {"b": 1, "c": None}),
    ],
)
def test_a_body_is_edited_as_declared(
    declared: dict[str, object], body: dict[str, object], expected: dict[str, object]
) -> None:
    assert edited(declared, body) == expected


@given(st.dictionaries(st.text(), st.integers()))
def test_no_quirks_change_nothing(body: dict[str, object]) -> None:
    assert edited({}, body) == body


def test_values_that_were_not_encoded_before_are_encoded() -> None:
    body: dict[str, msgspec.Raw] = {}
    edits.apply(Quirks(set={"a": [1, "ü"]}), body)
    assert bytes(body["a"]) == '[1,"ü"]'.encode()


def test_header_names_come_back_in_small_letters() -> None:
    assert quirks.parse({"headers": {"X-Title": "my gateway"}}).headers == {"x-title": "my gateway"}


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ([], "quirks must be an object"),
        (None, "quirks must be an object"),
        ({"drops": []}, "quirks.drops is unknown: there are " + ", ".join(quirks.NAMES)),
        ({"drop": "user"}, "quirks.drop must be a list of names"),
        ({"drop": [1]}, "quirks.drop holds a name that is no text"),
        ({"drop": ["model"]}, "quirks.drop.model: the gateway writes this field itself"),
        ({"rename": []}, "quirks.rename must be an object of old and new names"),
        ({"rename": {"a": ""}}, "quirks.rename holds a name that is no text"),
        ({"rename": {"a": "stream"}}, "quirks.rename.stream: the gateway writes this field itself"),
        ({"rename": {"a": "b", "b": "c"}}, "quirks.rename.a leads to b, which is renamed itself"),
        ({"set": [1]}, "quirks.set must be an object of names and values"),
        ({"set": {"model": "m"}}, "quirks.set.model: the gateway writes this field itself"),
        ({"set": {"a": object()}}, "quirks.set.a is no JSON value"),
        ({"headers": "x"}, "quirks.headers must be an object of names and texts"),
        ({"headers": {"a b": "x"}}, "quirks.headers.a b is no header name"),
        ({"headers": {"Authorization": "x"}}, "quirks.headers.Authorization is the gateway's own to send"),
        ({"headers": {"Host": "x"}}, "quirks.headers.Host is the gateway's own to send"),
        ({"headers": {"x-a": "1\r\nx-b: 2"}}, "quirks.headers.x-a must be a text of printable ASCII"),
        ({"headers": {"x-a": 1}}, "quirks.headers.x-a must be a text of printable ASCII"),
        (
            {"allow": ["a"]},
            'quirks.allow must be an object of paths and names, such as {"/chat/completions": ["tools"]}',
        ),
        ({"allow": {"chat": []}}, "quirks.allow: 'chat' is no path below the base URL, such as /chat/completions"),
        ({"allow": {"/a": "b"}}, "quirks.allow./a must be a list of names"),
        ({"refuse": {"model": "no"}}, "quirks.refuse.model: the gateway writes this field itself"),
        ({"refuse": {"n": ""}}, "quirks.refuse.n must be a text"),
        ({"token_ids": 0}, "quirks.token_ids must be true or false"),
        ({"lists": "stop"}, "quirks.lists must be a list of names"),
        ({"roles": []}, "quirks.roles must be an object of names and texts"),
        (
            {"paths": {"/a": "//b.example.com"}},
            "quirks.paths: '//b.example.com' is no path below",
        ),
        ({"paths": {"/a": "/../b"}}, "quirks.paths: '/../b' is no path below the base URL, such as"),
        ({"paths": {"/a": "/b?c=d"}}, "quirks.paths: '/b?c=d' is no path below the base URL, such as"),
        ({"finish": {"eos": "end"}}, "quirks.finish.eos must be one of stop, length, tool_calls, content_filter"),
        ({"fixups": ["magic"]}, "quirks.fixups must be a list of names: there are content_parts, empty_choices"),
        ({"reasoning": "thoughts"}, "quirks.reasoning must be one of reasoning, reasoning_content"),
        ({"usage_path": "a..b"}, "quirks.usage_path must be a way into the answer, such as x_groq.usage"),
        ({"error_paths": "a"}, "quirks.error_paths must be a list of ways into the body, such as fault.detail"),
        ({"errors": {"403": 400}}, "quirks.errors.403 must be an object of status, code and type"),
        ({"errors": {"403": {"status": 200}}}, "quirks.errors.403.status must be a status from 400 to 599"),
        ({"errors": {"403": {"code": 1}}}, "quirks.errors.403: code and type must be texts"),
        ({"errors": {"200": {"code": "a"}}}, "quirks.errors.200 must be a status from 400 to 599, in quotes"),
        ({"asleep": {"abc": ""}}, "quirks.asleep.abc must be a status from 400 to 599, in quotes"),
        ({"adapter": "{model}"}, 'quirks.adapter must be a text such as "{adapter}" or "{adapter}#{model}"'),
        ({"adapter": "{adapter}{x}"}, 'quirks.adapter must be a text such as "{adapter}" or "{adapter}#{model}"'),
    ],
)
def test_a_wrong_declaration_is_refused_with_the_name_of_its_key(declared: object, message: str) -> None:
    with pytest.raises(quirks.QuirksError) as caught:
        quirks.parse(declared)
    assert str(caught.value).startswith(message)


def test_time_limits_have_defaults_and_are_seconds() -> None:
    assert timeouts.parse({}) == Timeouts(connect=5.0, pool=2.0, first_byte=60.0, gap=60.0, total=600.0)
    assert timeouts.parse({"first_byte": 300, "gap": 0.5}) == Timeouts(first_byte=300.0, gap=0.5)


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ("60", "timeouts must be an object"),
        ({"read": 1}, "timeouts.read is unknown: there are connect, pool, first_byte, gap, total"),
        ({"gap": "60"}, "timeouts.gap must be a number of seconds"),
        ({"gap": True}, "timeouts.gap must be a number of seconds"),
        ({"gap": float("nan")}, "timeouts.gap must be a number of seconds"),
        ({"gap": 0}, "timeouts.gap must be more than 0 and at most 3600 seconds"),
        ({"total": 3601}, "timeouts.total must be more than 0 and at most 3600 seconds"),
    ],
)
def test_wrong_time_limits_are_refused_with_the_name_of_their_key(declared: object, message: str) -> None:
    with pytest.raises(timeouts.TimeoutsError) as caught:
        timeouts.parse(declared)
    assert str(caught.value) == message


def test_every_kind_of_declaration_is_read() -> None:
    declared = quirks.parse(
        {
            "paths": {"/completions": None, "/embeddings": "/embed"},
            "finish": {"eos": "stop"},
            "fixups": ["empty_choices"],
            "reasoning": "reasoning_content",
            "usage_path": "x_groq.usage",
            "errors": {"403": {"status": 400, "code": "context_length_exceeded"}},
            "error_paths": ["fault.detail"],
            "asleep": {"503": "Loading"},
        }
    )
    assert declared.paths == {"/completions": "", "/embeddings": "/embed"}
    assert declared.usage_path == ("x_groq", "usage")
    assert declared.errors == {403: ErrorRule(400, "context_length_exceeded")}
    assert declared.error_paths == (("fault", "detail"),)
    assert declared.asleep == {503: "loading"}
