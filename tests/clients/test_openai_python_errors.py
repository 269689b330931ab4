"""What the openai package makes of failures: the class that it raises, how often it asks, what it tells its user."""

import asyncio
import time
from typing import Any

import openai
import pytest
import pytest_asyncio

from tests.clients.sdk import MESSAGES, Sdk
from tests.clients.served import Gateway
from tests.gateway import golden
from tests.gateway.house import TOKEN
from tests.scripted import FIN, HANG, RESET, SSE_HEADERS, Chunk, ScriptedUpstream, event, head, json_answer, sse

pytestmark = pytest.mark.asyncio(loop_scope="session")

KEYS = {"message", "type", "param", "code"}


@pytest_asyncio.fixture(autouse=True, loop_scope="session")
async def in_order(gateway: Gateway, scripted: ScriptedUpstream) -> None:
    """Good answers before each test: those that fail in it would else have the provider passed over in the next."""
    scripted.default = json_answer(golden.COMPLETION)
    ask = {"model": "fast", "messages": MESSAGES}
    async with gateway.http() as http:
        await asyncio.gather(*(http.post("/chat/completions", json=ask) for _ in range(6)))
    scripted.requests.clear()
    scripted.default = json_answer({})


async def refused(sdk: Sdk, *, model: str = "fast", retries: int = 0, **ask: Any) -> openai.APIStatusError:
    """The error that a chat call raises, always with our request id and the four keys."""
    with pytest.raises(openai.APIStatusError) as caught:
        await sdk.get(
            lambda client: client.with_options(max_retries=retries).chat.completions.create(
                model=model, messages=MESSAGES, **ask
            )
        )
    error = caught.value
    assert error.request_id is not None
    assert error.request_id == error.response.headers["x-request-id"]
    assert error.response.headers["content-type"] == "application/json"
    assert set(error.response.json()["error"]) == KEYS
    return error


async def post(gateway: Gateway, body: bytes, path: str = "/chat/completions") -> tuple[int, dict[str, Any]]:
    async with gateway.http() as http:
        answer = await http.post(path, content=body)
    assert set(answer.json()["error"]) == KEYS
    return answer.status_code, answer.json()["error"]


# --- refusals of the gateway itself -----------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["sk-gw-nobody", "sk-proj-of-somebody-else", "My API Key"])
async def test_case_26_a_wrong_key_is_an_authentication_error_after_one_attempt(
    gateway: Gateway, scripted: ScriptedUpstream, key: str
) -> None:
    attempts: list[Any] = []

    async def count(request: Any) -> None:
        attempts.append(request)

    watched = openai.DefaultAsyncHttpxClient(event_hooks={"request": [count]})
    async with gateway.client(api_key=key, http_client=watched) as client:
        with pytest.raises(openai.AuthenticationError) as caught:
            await client.chat.completions.create(model="fast", messages=MESSAGES)
    error = caught.value
    assert (error.status_code, error.code, error.type, error.param) == (
        401, "invalid_api_key", "invalid_request_error", None,
    )  # fmt: skip
    assert set(error.response.json()["error"]) == KEYS
    assert key not in error.response.text
    assert len(attempts) == 1
    assert scripted.requests == []


async def test_case_27_an_unknown_model_is_not_found(sdk: Sdk, scripted: ScriptedUpstream) -> None:
    error = await refused(sdk, model="nope", retries=2)
    assert isinstance(error, openai.NotFoundError)
    assert error.code == "model_not_found"
    said = error.response.json()["error"]["message"]
    assert said == "The model `nope` does not exist or you do not have access to it."
    assert scripted.requests == []


async def test_case_27_an_unknown_path_and_a_wrong_method_are_json(gateway: Gateway) -> None:
    async with gateway.http() as http:
        nowhere = await http.post(gateway.url.removesuffix("/v1") + "/foo", json={"model": "fast"})
        method = await http.get("/embeddings")
    assert (nowhere.status_code, nowhere.json()["error"]["message"]) == (404, "Invalid URL (POST /v1/foo)")
    assert (method.status_code, method.json()["error"]["code"]) == (405, "method_not_supported")
    assert method.headers["allow"] == "POST"
    assert set(nowhere.json()["error"]) == set(method.json()["error"]) == KEYS


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b'{"model": "fast", ', None),
        (b"", None),
        (b'[{"model": "fast"}]', None),
        (b'{"messages": []}', "model"),
        (b'{"model": "fast", "stream": "yes"}', "stream"),
    ],
    ids=["half", "empty", "array", "no model", "wrong type"],
)
async def test_case_28_a_body_that_is_no_request_is_a_bad_request(
    gateway: Gateway, scripted: ScriptedUpstream, body: bytes, param: str | None
) -> None:
    status, error = await post(gateway, body)
    assert (status, error["type"], error["param"]) == (400, "invalid_request_error", param)
    assert scripted.requests == []


async def test_case_28_the_package_raises_a_bad_request_error(sdk: Sdk, scripted: ScriptedUpstream) -> None:
    error = await refused(sdk, retries=2, n=0)
    assert isinstance(error, openai.BadRequestError)
    assert (error.param, error.code) == ("n", "invalid_value")
    assert scripted.requests == []


# --- refusals of the provider -----------------------------------------------------------------------------------------

CLASSES = [
    (400, openai.BadRequestError, 400),
    (403, openai.InternalServerError, 502),  # about the gateway's credential, not about the client's key
    (404, openai.NotFoundError, 404),
    (409, openai.ConflictError, 409),
    (413, openai.APIStatusError, 413),
    (422, openai.UnprocessableEntityError, 422),
    (429, openai.RateLimitError, 429),
    (500, openai.InternalServerError, 500),
    (503, openai.InternalServerError, 503),
]


@pytest.mark.parametrize(("status", "kind", "shown"), CLASSES, ids=lambda value: str(value))
async def test_each_status_of_the_provider_raises_its_own_class(
    sdk: Sdk, scripted: ScriptedUpstream, status: int, kind: type[openai.APIStatusError], shown: int
) -> None:
    said = {"message": "As you like it.", "type": "some_type", "param": "n", "code": "some_code"}
    scripted.default = json_answer({"error": said}, status=status)
    error = await refused(sdk)
    assert type(error) is kind
    assert error.status_code == shown
    assert len(scripted.requests) == 1
    if shown == status:
        assert error.response.json() == {"error": said}


async def test_case_29_a_429_keeps_its_wait_and_is_tried_three_times(sdk: Sdk, scripted: ScriptedUpstream) -> None:
    said = {"error": {"message": "slow down", "type": "requests", "param": None, "code": "rate_limit_exceeded"}}
    scripted.default = json_answer(said, status=429, headers={"retry-after-ms": "50"})
    began = time.monotonic()
    error = await refused(sdk, retries=openai.DEFAULT_MAX_RETRIES)
    assert isinstance(error, openai.RateLimitError)
    assert error.response.headers["retry-after-ms"] == "50"
    assert len(scripted.requests) == 3
    # Twice 50 ms and not the half second that the package waits where it is told nothing.
    assert 0.09 < time.monotonic() - began < 0.45


async def test_case_30_a_quota_that_is_used_up_is_asked_once(sdk: Sdk, scripted: ScriptedUpstream) -> None:
    said = {"message": "You exceeded your quota.", "type": "insufficient_quota", "param": None}
    scripted.default = json_answer({"error": {**said, "code": "insufficient_quota"}}, status=429)
    error = await refused(sdk, retries=openai.DEFAULT_MAX_RETRIES)
    assert (type(error), error.code) == (openai.RateLimitError, "insufficient_quota")
    assert error.response.headers["x-should-retry"] == "false"
    assert len(scripted.requests) == 1


async def test_case_31_a_web_page_becomes_a_sentence(sdk: Sdk, scripted: ScriptedUpstream) -> None:
    page = b"<html><head><title>502 Bad Gateway</title></head><body>" + b"<hr>nginx" * 100 + b"</body></html>"
    scripted.default = [head(502, {"content-type": "text/html", "content-length": str(len(page))}) + page]
    error = await refused(sdk)
    assert isinstance(error, openai.InternalServerError)
    assert error.status_code == 502
    message = error.response.json()["error"]["message"]
    assert "<" not in message
    assert len(message) <= 200


async def test_case_32_a_provider_that_is_not_there_is_told_at_once(sdk: Sdk) -> None:
    began = time.monotonic()
    error = await refused(sdk, model="gone")
    assert (error.status_code, error.code) == (502, "upstream_unreachable")
    assert time.monotonic() - began < 1.0
    assert "127.0.0.1" not in error.response.text


async def test_case_32_a_provider_that_does_not_answer_is_a_504(sdk: Sdk, scripted: ScriptedUpstream) -> None:
    scripted.default = [HANG]
    began = time.monotonic()
    error = await refused(sdk, model="slow")
    assert (error.status_code, error.code) == (504, "upstream_timeout")
    assert 0.9 < time.monotonic() - began < 2.0


async def test_the_next_route_answers_where_the_first_is_not_there(sdk: Sdk, scripted: ScriptedUpstream) -> None:
    scripted.default = json_answer(golden.COMPLETION)
    answer = await sdk.get(
        lambda client: client.chat.completions.with_raw_response.create(model="spared", messages=MESSAGES)
    )
    assert answer.headers["x-gateway-provider"] == "lab"
    assert answer.parse().to_dict() == golden.COMPLETION


async def test_case_33_context_length_exceeded_keeps_status_code_and_param(
    sdk: Sdk, scripted: ScriptedUpstream
) -> None:
    said = {
        "message": "This model's maximum context length is 8192 tokens.",
        "type": "invalid_request_error",
        "param": "messages",
        "code": "context_length_exceeded",
    }
    scripted.default = json_answer({"error": said}, status=400)
    error = await refused(sdk)
    assert (type(error), error.code, error.param) == (openai.BadRequestError, "context_length_exceeded", "messages")
    assert error.response.json() == {"error": said}


FOREIGN: list[tuple[str, int, Any, str, str | None]] = [
    (
        "vLLM",
        404,
        {"object": "error", "message": "No model x", "type": "NotFoundError", "code": 404},
        "No model x",
        None,
    ),
    ("FastAPI", 422, {"detail": [{"loc": ["body", "n"], "msg": "too large"}]}, "n: too large", None),
    ("text", 503, {"error": "Model is overloaded"}, "Model is overloaded", None),
    (
        "Gemini",
        400,
        [{"error": {"code": 400, "message": "Bad", "status": "INVALID_ARGUMENT"}}],
        "Bad",
        "INVALID_ARGUMENT",
    ),
    ("Mistral", 422, {"object": "error", "message": {"detail": [{"msg": "Extra"}]}, "code": "1000"}, "Extra", None),
    ("LoRAX", 424, {"error": "Request failed", "error_type": "generation"}, "Request failed", None),
]


@pytest.mark.parametrize(
    ("status", "body", "message", "code"), [row[1:] for row in FOREIGN], ids=[r[0] for r in FOREIGN]
)
async def test_case_34_each_providers_own_shape_tells_the_user_why(
    sdk: Sdk, scripted: ScriptedUpstream, status: int, body: Any, message: str, code: str | None
) -> None:
    scripted.default = json_answer(body, status=status)
    error = await refused(sdk)
    assert error.status_code == status
    assert (error.response.json()["error"]["message"], error.code) == (message, code)


async def test_case_35_a_provider_that_repeats_its_key_does_not_give_it_away(
    sdk: Sdk, scripted: ScriptedUpstream
) -> None:
    said = {"message": f"Bad key {TOKEN} for you", "type": "x", "param": TOKEN, "code": TOKEN}
    scripted.default = json_answer({"error": said}, status=400)
    error = await refused(sdk)
    assert TOKEN not in error.response.text
    assert error.response.json()["error"]["message"] == "Bad key *** for you"


# --- streams that fail ------------------------------------------------------------------------------------------------

CHUNKED = {**SSE_HEADERS, "transfer-encoding": "chunked"}
BEGUN = [event(part) for part in golden.chunks("Hel", "lo", usage=False)[:3]]


async def broken(sdk: Sdk) -> tuple[list[Any], openai.APIError]:
    """What a stream brings before it fails, and how it fails."""
    parts: list[Any] = []

    def ask(client: Any) -> Any:
        return client.chat.completions.create(model="fast", messages=MESSAGES, stream=True)

    def read(client: Any) -> None:
        for part in ask(client):
            parts.append(part)  # noqa: PERF402 - as below

    async def drain() -> None:
        if sdk.blocking:
            await sdk.get(read)
            return
        async for part in await ask(sdk.client):
            parts.append(part)  # noqa: PERF401 - what came before the error counts

    with pytest.raises(openai.APIError) as caught:
        await drain()
    return parts, caught.value


async def test_case_18_an_error_within_a_stream_is_raised_with_its_own_words(
    sdk: Sdk, scripted: ScriptedUpstream
) -> None:
    said = {"message": "boom", "type": "server_error", "param": None, "code": "inner"}
    scripted.default = [head(200, CHUNKED), *map(Chunk, BEGUN), Chunk(event({"error": said})), HANG]
    parts, error = await broken(sdk)
    assert [part.choices[0].delta.content for part in parts] == ["", "Hel", "lo"]
    assert (error.message, error.code, error.type) == ("boom", "inner", "server_error")


@pytest.mark.parametrize("end", [RESET, FIN], ids=["reset", "closed"])
async def test_case_19_a_stream_that_is_cut_says_so(sdk: Sdk, scripted: ScriptedUpstream, end: Any) -> None:
    scripted.default = [head(200, CHUNKED), *map(Chunk, BEGUN), end]
    parts, error = await broken(sdk)
    assert [part.choices[0].delta.content for part in parts] == ["", "Hel", "lo"]
    assert type(error) is openai.APIError  # and not APIConnectionError
    assert error.code == "stream_interrupted"


async def test_case_12_a_stream_that_ends_without_a_finish_reason_is_no_answer(
    sdk: Sdk, scripted: ScriptedUpstream
) -> None:
    scripted.default = sse(*golden.chunks("Hel", usage=False)[:-1], done=False)
    _, error = await broken(sdk)
    assert error.code == "stream_interrupted"


async def test_case_21_a_whole_answer_to_a_stream_is_given_as_one(sdk: Sdk, scripted: ScriptedUpstream) -> None:
    scripted.default = json_answer(golden.COMPLETION)
    parts = await sdk.every(lambda client: client.chat.completions.create(model="fast", messages=MESSAGES, stream=True))
    message = golden.COMPLETION["choices"][0]["message"]["content"]
    assert "".join(part.choices[0].delta.content or "" for part in parts) == message
    assert parts[-1].choices[0].finish_reason == "stop"


async def test_an_error_as_the_first_event_of_a_stream_has_a_status(sdk: Sdk, scripted: ScriptedUpstream) -> None:
    said = {"message": "slow down", "type": "requests", "param": None, "code": "rate_limit_exceeded"}
    scripted.default = [head(200, CHUNKED), Chunk(event({"error": {**said, "status": 429}})), Chunk()]
    error = await refused(sdk, stream=True)
    assert isinstance(error, openai.RateLimitError)
    assert error.response.json() == {"error": said}
