"""Every shape in which providers refuse becomes OpenAI's envelope; each body's source is cited beside it."""

import email.utils
import json
import time
from typing import Any

import pytest

from gateway.replies.refusals import AUTH_FAILED, mask, refusal

SECRET = "sk-proj-Abc/def+ghi"

SHAPES: list[tuple[int, Any, tuple[str, str, str | None, str | None]]] = [
    # https://platform.openai.com/docs/guides/error-codes
    (
        429,
        {"error": {"message": "Slow down", "type": "requests", "param": None, "code": "rate_limit_exceeded"}},
        ("Slow down", "requests", None, "rate_limit_exceeded"),
    ),
    # https://docs.vllm.ai/en/v0.8.0/serving/openai_compatible_server.html (flat, with the status as code)
    (
        404,
        {"object": "error", "message": "No model x", "type": "NotFoundError", "param": None, "code": 404},
        ("No model x", "NotFoundError", None, None),
    ),
    # vLLM since 0.10: the same within `error`
    (
        400,
        {"error": {"message": "Bad", "type": "BadRequestError", "param": "n", "code": 400}},
        ("Bad", "BadRequestError", "n", None),
    ),
    # https://fastapi.tiangolo.com/tutorial/handling-errors/
    (404, {"detail": "Not Found"}, ("Not Found", "invalid_request_error", None, None)),
    (
        422,
        {"detail": [{"type": "missing", "loc": ["body", "messages", 0], "msg": "Field required", "input": {}}]},
        ("messages.0: Field required", "invalid_request_error", "messages.0", None),
    ),
    # https://github.com/predibase/lorax/blob/main/router/src/server.rs (and text-generation-inference)
    (
        422,
        {"error": "Input validation error: too long", "error_type": "validation"},
        ("Input validation error: too long", "validation", None, None),
    ),
    (503, {"error": "Model is overloaded"}, ("Model is overloaded", "upstream_error", None, None)),
    # https://ai.google.dev/gemini-api/docs/troubleshooting (the OpenAI-compatible endpoint wraps it in an array)
    (
        400,
        [{"error": {"code": 400, "message": "API key not valid.", "status": "INVALID_ARGUMENT"}}],
        ("API key not valid.", "invalid_request_error", None, "INVALID_ARGUMENT"),
    ),
    # https://docs.mistral.ai/api/ : the message is an object
    (
        422,
        {
            "object": "error",
            "message": {"detail": [{"type": "extra_forbidden", "loc": ["body", "seed"], "msg": "Extra inputs"}]},
            "type": "invalid_request_error",
            "param": None,
            "code": "1000",
        },
        ("seed: Extra inputs", "invalid_request_error", "seed", None),
    ),
    (500, {"message": "Oops", "request_id": "1"}, ("Oops", "upstream_error", None, None)),
    # https://openrouter.ai/docs/api-reference/errors
    (
        408,
        {"error": {"code": 408, "message": "Timed out", "metadata": {}}},
        ("Timed out", "invalid_request_error", None, None),
    ),
    # https://docs.anthropic.com/en/api/errors
    (
        529,
        {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}},
        ("Overloaded", "overloaded_error", None, None),
    ),
    (500, b"upstream connect error", ("upstream connect error", "upstream_error", None, None)),
    (500, b"", ("The provider answered 500 and gave no reason.", "upstream_error", None, None)),
    (500, {"a": 1}, ("The provider answered 500 and gave no reason.", "upstream_error", None, None)),
    (500, b'{"error": {"mess', ("The provider answered 500 and gave no reason.", "upstream_error", None, None)),
    (500, [], ("The provider answered 500 and gave no reason.", "upstream_error", None, None)),
    (500, {"error": {}}, ("The provider gave no reason.", "upstream_error", None, None)),
]


def raw(body: Any) -> bytes:
    return body if isinstance(body, bytes) else json.dumps(body).encode()


@pytest.mark.parametrize(("status", "body", "told"), SHAPES)
def test_case_34_every_shape_becomes_the_envelope(
    status: int, body: Any, told: tuple[str, str, str | None, str | None]
) -> None:
    error = refusal(status, {}, raw(body), [])
    message, kind, param, code = told
    assert error.body() == {"error": {"message": message, "type": kind, "param": param, "code": code}}
    assert (error.status, error.upstream_status, error.sent) == (status, status, True)
    assert error.original == raw(body).decode()


def test_case_33_context_length_exceeded_comes_as_it_is() -> None:
    said = {
        "message": "This model's maximum context length is 8192 tokens.",
        "type": "invalid_request_error",
        "param": "messages",
        "code": "context_length_exceeded",
    }
    error = refusal(400, {"content-type": "application/json"}, raw({"error": said}), [SECRET])
    assert error.status == 400
    assert error.body() == {"error": said}
    assert error.headers == {}


@pytest.mark.parametrize(
    "page",
    [
        b"<html><head><title>502 Bad Gateway</title></head><body>nginx</body></html>",
        b"\n<!DOCTYPE html><html></html>",
        raw({"error": {"message": "<html><body>nginx</body></html>"}}),
        raw({"detail": "Upstream said: <!doctype html><p>nginx"}),
    ],
)
def test_case_31_a_web_page_becomes_a_sentence(page: bytes) -> None:
    error = refusal(502, {"content-type": "text/html"}, page, [])
    assert error.message == "The provider answered 502 with a web page instead of an error that could be passed on."
    assert (error.status, error.type) == (502, "upstream_error")


def test_foreign_text_is_cut_at_200_characters() -> None:
    assert refusal(500, {}, b"x" * 5000, []).message == "x" * 200
    assert len(refusal(500, {}, b"x" * 5000, []).original) == 2000
    assert len(refusal(500, {}, raw({"error": "x" * 50_000}), []).message) == 4000


@pytest.mark.parametrize(
    ("status", "shown"),
    [
        (301, 502),
        (302, 502),
        (204, 502),
        (101, 502),
        (600, 502),
        (407, 502),
        (400, 400),
        (404, 404),
        (429, 429),
        (529, 529),
    ],
)
def test_the_status_is_kept_where_it_is_an_error(status: int, shown: int) -> None:
    error = refusal(status, {}, b"", [])
    assert (error.status, error.upstream_status) == (shown, status)


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_credential_is_not_the_client_s_fault(status: int) -> None:
    body = raw({"error": {"message": "Not from your region", "type": "x", "param": None, "code": "invalid_api_key"}})
    error = refusal(status, {}, body, [])
    assert (error.status, error.type, error.code, error.upstream_status) == (502, "upstream_error", AUTH_FAILED, status)
    assert error.headers == {"x-should-retry": "false"}
    assert ("Not from your region" in error.message) is (status == 403)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ({"Retry-After": "20"}, {"retry-after": "20"}),
        ({"retry-after": "1.5", "retry-after-ms": "1500"}, {"retry-after": "1.5", "retry-after-ms": "1500"}),
        ({"retry-after-ms": "50"}, {"retry-after-ms": "50"}),
        ({"retry-after": "60"}, {"retry-after": "60"}),
        ({"retry-after": "61"}, {"retry-after": "61", "x-should-retry": "false"}),
        ({"retry-after-ms": "90000"}, {"retry-after-ms": "90000", "x-should-retry": "false"}),
        ({"retry-after": "90", "x-should-retry": "true"}, {"retry-after": "90", "x-should-retry": "false"}),
        ({"x-should-retry": "true"}, {"x-should-retry": "true"}),
        ({"x-should-retry": "maybe"}, {}),
        *[({"retry-after": junk}, {}) for junk in ("-1", "1000000000", "soon", "nan", "inf", "1e3", "", "٣", "1.2.3")],
        *[({"retry-after-ms": junk}, {}) for junk in ("-1", "1000000000000", "x", "9" * 400)],
        ({"retry-after": "Mon, 99 Foo 2020 00:00:00 GMT"}, {}),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, {}),
        ({"set-cookie": "a=b", "server": "nginx"}, {}),
    ],
)
def test_retry_headers_are_carried_over_when_they_make_sense(given: dict[str, str], kept: dict[str, str]) -> None:
    assert refusal(429, given, b"", []).headers == kept


def test_retry_after_may_be_a_date() -> None:
    soon = email.utils.formatdate(time.time() + 30, usegmt=True)
    late = email.utils.formatdate(time.time() + 300, usegmt=True)
    assert refusal(503, {"retry-after": soon}, b"", []).headers == {"retry-after": soon}
    assert refusal(503, {"retry-after": late}, b"", []).headers == {"retry-after": late, "x-should-retry": "false"}


@pytest.mark.parametrize("where", ["code", "type"])
@pytest.mark.parametrize("word", ["insufficient_quota", "credit_balance_exhausted"])
def test_a_lack_of_credit_is_not_to_be_tried_again(where: str, word: str) -> None:
    body = raw({"error": {"message": "You exceeded your current quota", where: word}})
    error = refusal(429, {}, body, [])
    assert (error.status, error.headers) == (429, {"x-should-retry": "false"})
    assert error.body()["error"][where] == word


@pytest.mark.parametrize(
    "leak",
    [
        SECRET,
        "sk-proj-Abc%2Fdef%2Bghi",
        "Bearer abc.def",
        "bearer  xyz",
        "sk-live-0123456789",
        "sk-proj-abcd****************wxyz",
        "gsk_0123456789abcdef",
        "hf_abcdefghijklmnop",
        "AIza" + "x" * 35,
    ],
)
@pytest.mark.parametrize("field", ["message", "type", "param", "code"])
def test_case_35_keys_are_masked_wherever_they_stand(leak: str, field: str) -> None:
    for body in (raw({"error": {"message": "m", field: f'key "{leak}" is wrong'}}), f"key {leak} is wrong".encode()):
        error = refusal(400, {}, body, [SECRET, ""])
        shown = error.json().decode() + error.original + str(error) + repr(error)
        assert leak not in shown
        assert "Abc/def" not in shown
        assert "***" in error.original


def test_ordinary_words_are_not_masked() -> None:
    text = "The task-force asks: use sk-1 or the hf_hub, bearer of news; a risk-free pk."
    assert mask(text, ["abc", ""]) == text.replace("bearer of", "***")


def test_a_body_nested_without_end_is_survived() -> None:
    assert refusal(500, {}, b"[" * 60_000, []).message == "The provider answered 500 and gave no reason."
    deep = b'{"message":' * 900 + b'"x"' + b"}" * 900
    assert refusal(500, {}, deep, []).status == 500
