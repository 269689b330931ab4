"""Requests as one provider takes them."""

import msgspec
import pytest

from providers import edits, quirks

Body = dict[str, object]


def edited(declared: Body, body: Body, path: str = "/chat/completions") -> Body:
    raw = {name: msgspec.Raw(msgspec.json.encode(value)) for name, value in body.items()}
    edits.apply(quirks.parse(declared), raw, path)
    return {name: msgspec.json.decode(value) for name, value in raw.items()}


@pytest.mark.parametrize(
    ("declared", "body", "expected"),
    [
        ({"lists": ["stop"]}, {"stop": "END"}, {"stop": ["END"]}),
        ({"lists": ["stop"]}, {"stop": ["A", "B"]}, {"stop": ["A", "B"]}),
        ({"lists": ["stop"]}, {"stop": None}, {"stop": None}),
        ({"lists": ["stop"]}, {}, {}),
        (
            {"allow": {"/chat/completions": ["messages"]}},
            {"model": "m", "stream": True, "messages": [], "user": "u"},
            {"model": "m", "stream": True, "messages": []},
        ),
        ({"allow": {"/embeddings": ["input"]}}, {"model": "m", "user": "u"}, {"model": "m", "user": "u"}),
        ({"allow": {"/chat/completions": []}, "set": {"safe_prompt": True}}, {"user": "u"}, {"safe_prompt": True}),
        ({"refuse": {"logprobs": "no"}}, {"logprobs": False, "a": 1}, {"a": 1}),
        ({"refuse": {"n": "one"}}, {"n": 1}, {}),
        ({"refuse": {"n": "one"}}, {}, {}),
        ({"token_ids": False}, {"input": ["a", "1"]}, {"input": ["a", "1"]}),
        ({"token_ids": False}, {"input": "[1, 2]"}, {"input": "[1, 2]"}),
        ({"token_ids": True}, {"input": [[1, 2]]}, {"input": [[1, 2]]}),
    ],
)
def test_a_body_is_edited_as_declared(declared: Body, body: Body, expected: Body) -> None:
    assert edited(declared, body) == expected


def test_messages_get_the_roles_that_the_provider_knows_and_lose_what_it_refuses() -> None:
    messages = [
        {"role": "developer", "content": 'say "developer"', "name": "d"},
        {"role": "assistant", "content": "x", "reasoning_content": "hm"},
        {"role": "user", "content": [{"type": "text", "text": "name"}]},
    ]
    declared: Body = {"roles": {"developer": "system"}, "message_drop": ["name", "reasoning_content"]}
    assert edited(declared, {"messages": messages})["messages"] == [
        {"role": "system", "content": 'say "developer"'},
        {"role": "assistant", "content": "x"},
        {"role": "user", "content": [{"type": "text", "text": "name"}]},
    ]


def test_messages_without_anything_to_edit_stay_byte_for_byte() -> None:
    raw = msgspec.Raw(b'[ {"role" : "user",  "content":"developer \\u00e4"} ]')
    body = {"messages": raw}
    edits.apply(quirks.parse({"roles": {"developer": "system"}}), body)
    assert bytes(body["messages"]) == bytes(raw)


@pytest.mark.parametrize("messages", [b'"developer"', b'["developer"]', b"null"])
def test_messages_that_are_none_are_left_to_the_provider(messages: bytes) -> None:
    body = {"messages": msgspec.Raw(messages)}
    edits.apply(quirks.parse({"roles": {"developer": "system"}}), body)
    assert bytes(body["messages"]) == messages


@pytest.mark.parametrize("given", [[1, 2, 3], [[1, 2], [3]], [-1]])
@pytest.mark.parametrize("name", ["input", "prompt"])
def test_token_ids_are_refused_with_the_name_of_langchains_setting(given: object, name: str) -> None:
    with pytest.raises(edits.Refused, match=r"check_embedding_ctx_length=False") as caught:
        edited({"token_ids": False}, {name: given})
    assert caught.value.field == name


def test_a_refused_field_is_named_with_what_to_do() -> None:
    with pytest.raises(edits.Refused, match="leave n out") as caught:
        edited({"refuse": {"n": "leave n out"}}, {"n": 2})
    assert caught.value.field == "n"


@pytest.mark.parametrize(
    ("adapter", "model", "expected"),
    [
        ("", "base", None),
        ("{adapter}", "", "org/lora/3"),
        ("{adapter}", "base", "org/lora/3"),
        ("{adapter}#{model}", "accounts/me/deployments/d", "org/lora/3#accounts/me/deployments/d"),
        ("{adapter}#{model}", "", "org/lora/3"),
    ],
)
def test_a_model_with_an_adapter_has_the_name_that_the_provider_gives_it(
    adapter: str, model: str, expected: str | None
) -> None:
    declared = quirks.parse({"adapter": adapter} if adapter else {})
    assert edits.with_adapter(declared, model, "org/lora/3") == expected
