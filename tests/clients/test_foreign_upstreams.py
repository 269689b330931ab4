"""Providers that others wrote: llmock (Python) and aimock (Node.js), each on a socket, the gateway between."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import openai
import pytest
import pytest_asyncio
from llmock.pytest_plugin import LLMock
from llmock.testing import LLMockServer

from tests.clients import node
from tests.clients.sdk import Sdk
from tests.clients.served import Gateway, Process, Servers

pytestmark = pytest.mark.asyncio(loop_scope="session")

SAME_DIALECT = ("openai", "groq", "mistral", "together", "perplexity", "xai")
ROUTE = '  "{name}/*": {{routes: [{{provider: {name}}}]}}'
PROVIDER = '  {name}: {{dialect: openai, base_url: "{url}", credentials: {{main: env:LAB_KEY}}}}'
USAGE = {"stream_options": {"include_usage": True}}
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


def configuration(**urls: str) -> str:
    """Each provider under its name, an alias `name/*` for each."""
    providers = [PROVIDER.format(name=name, url=url) for name, url in urls.items()]
    return "\n".join(["providers:", *providers, "aliases:", *(ROUTE.format(name=name) for name in urls)])


def says(text: str) -> Any:
    return [{"role": "user", "content": text}]


@pytest_asyncio.fixture(loop_scope="session", scope="module")
async def beyond_llmock(
    llmock_server: LLMockServer, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Gateway]:
    async with AsyncExitStack() as stack:
        text = configuration(**{name: llmock_server.base_url(name) for name in SAME_DIALECT})
        yield await Servers(tmp_path_factory.mktemp("llmock"), stack, text).get("uvicorn")


@pytest_asyncio.fixture(loop_scope="session", scope="module")
async def beyond_aimock(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Gateway]:
    assert request.config.cache is not None
    program = node.installed(request.config.cache, "aimock") / "node_modules/@copilotkit/aimock/dist/cli.js"
    fixtures = node.HERE / "aimock/fixtures.json"
    data_dir = tmp_path_factory.mktemp("aimock")
    async with AsyncExitStack() as stack:
        arguments = ["node", str(program), "--port", "0", "--fixtures", str(fixtures), "--strict"]
        aimock = await stack.enter_async_context(Process(arguments, data_dir / "aimock.txt", node.environment()))
        url = (await aimock.until(r"listening on (http://\S+)"))[1]
        yield await Servers(data_dir, stack, configuration(aimock=f"{url}/v1")).get("uvicorn")


@pytest_asyncio.fixture(loop_scope="session")
async def via_llmock(beyond_llmock: Gateway) -> AsyncIterator[Sdk]:
    async with beyond_llmock.client() as client:
        yield Sdk(client, blocking=False)


@pytest_asyncio.fixture(loop_scope="session")
async def via_aimock(beyond_aimock: Gateway) -> AsyncIterator[Sdk]:
    async with beyond_aimock.client() as client:
        yield Sdk(client, blocking=False)


# --- llmock -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SAME_DIALECT)
async def test_llmock_answers_whole_and_streamed_in_each_providers_own_shape(
    via_llmock: Sdk, llmock: LLMock, name: str
) -> None:
    text = "Grüß dich, how are you? 😀"
    llmock.reply(text, times=2)
    ask: Any = {"model": f"{name}/some-model", "messages": says("Hi")}
    whole = await via_llmock.get(lambda client: client.chat.completions.create(**ask))
    events, final = await via_llmock.conversation(**ask, **USAGE)
    assert whole.choices[0].message.content == final.choices[0].message.content == text
    # Together's own word is "eos".
    assert whole.choices[0].finish_reason == final.choices[0].finish_reason == "stop"
    assert final.usage.total_tokens == whole.usage.total_tokens > 0
    assert sum(part.type == "content.delta" for part in events) > 3
    asked = await asyncio.to_thread(lambda: llmock.requests)
    assert [(record.provider, record.model, record.stream, record.completed) for record in asked] == [
        (name, "some-model", False, True), (name, "some-model", True, True),
    ]  # fmt: skip


async def test_llmock_sends_usage_only_for_us_where_the_client_did_not_ask(via_llmock: Sdk, llmock: LLMock) -> None:
    llmock.reply("Hello there")
    parts = await via_llmock.every(
        lambda client: client.chat.completions.create(model="openai/m", messages=says("Hi"), stream=True)
    )
    assert "".join(part.choices[0].delta.content or "" for part in parts) == "Hello there"
    assert not any("usage" in part.to_dict() for part in parts)
    record = await asyncio.to_thread(lambda: llmock.last_request)
    assert record.body["stream_options"] == {"include_usage": True}


async def test_llmock_calls_a_tool_in_pieces(via_llmock: Sdk, llmock: LLMock) -> None:
    llmock.call_tool("get_weather", {"city": "Paris"})
    _, final = await via_llmock.conversation(model="openai/m", messages=says("Weather?"), tools=[WEATHER])
    [call] = final.choices[0].message.tool_calls
    assert (call.function.name, json.loads(call.function.arguments)) == ("get_weather", {"city": "Paris"})
    assert final.choices[0].finish_reason == "tool_calls"


async def test_llmock_streams_three_choices_one_after_the_other(via_llmock: Sdk, llmock: LLMock) -> None:
    llmock.reply("one two three")
    _, final = await via_llmock.conversation(model="openai/m", messages=says("Hi"), n=3)
    assert [choice.message.content for choice in final.choices] == ["one two three"] * 3


async def test_llmock_finds_that_its_rate_limit_is_respected_through_the_gateway(
    via_llmock: Sdk, llmock: LLMock
) -> None:
    llmock.rate_limit(times=2, retry_after=0.3).reply("At last")
    answer = await via_llmock.get(lambda client: client.chat.completions.create(model="openai/m", messages=says("Hi")))
    assert answer.choices[0].message.content == "At last"
    assert [record.status for record in await asyncio.to_thread(lambda: llmock.requests)] == [429, 429, 200]
    await asyncio.to_thread(llmock.assert_resilient)


@pytest.mark.parametrize("name", SAME_DIALECT)
@pytest.mark.parametrize(
    ("status", "kind"), [(400, openai.BadRequestError), (422, openai.UnprocessableEntityError)], ids=["400", "422"]
)
async def test_llmock_refuses_in_each_providers_own_words(
    via_llmock: Sdk, llmock: LLMock, name: str, status: int, kind: type[openai.APIStatusError]
) -> None:
    llmock.fail(status, message="That will not do.", times=None)
    with pytest.raises(kind) as caught:
        await via_llmock.get(lambda client: client.chat.completions.create(model=f"{name}/m", messages=says("Hi")))
    error = caught.value.response.json()["error"]
    assert error["message"] == "That will not do."
    assert set(error) == {"message", "type", "param", "code"}
    assert len(await asyncio.to_thread(lambda: llmock.requests)) == 1


@pytest.mark.parametrize("fault", ["disconnect", "truncate", "corrupt"])
async def test_no_broken_stream_of_llmock_passes_for_a_whole_one(via_llmock: Sdk, llmock: LLMock, fault: str) -> None:
    llmock.reply("one two three four five six")
    getattr(llmock, fault)(after_chunks=3)
    with pytest.raises(openai.APIError) as caught:
        await via_llmock.every(
            lambda client: client.chat.completions.create(model="openai/m", messages=says("Hi"), stream=True)
        )
    assert type(caught.value) is openai.APIError  # no raw JSONDecodeError, no dropped connection
    assert caught.value.code == ("upstream_invalid_response" if fault == "corrupt" else "stream_interrupted")


@pytest.mark.parametrize("encoding", [{}, {"encoding_format": "float"}], ids=["default", "float"])
async def test_llmock_embeds(via_llmock: Sdk, llmock: LLMock, encoding: Any) -> None:
    answer = await via_llmock.get(
        lambda client: client.embeddings.create(model="openai/text-embedding-3-small", input=["a", "b"], **encoding)
    )
    assert [item.index for item in answer.data] == [0, 1]
    assert all(type(number) is float for item in answer.data for number in item.embedding)
    assert len(answer.data[0].embedding) > 2


# --- aimock -----------------------------------------------------------------------------------------------------------

GREETING = "Hello! How can I help you today?"


@pytest.mark.node
async def test_aimock_answers_whole_and_streamed(via_aimock: Sdk) -> None:
    ask: Any = {"model": "aimock/gpt-4o", "messages": says("hello")}
    whole = await via_aimock.get(lambda client: client.chat.completions.create(**ask))
    events, final = await via_aimock.conversation(**ask, **USAGE)
    quiet = await via_aimock.every(lambda client: client.chat.completions.create(**ask, stream=True))
    assert whole.model == final.model == "gpt-4o"
    assert whole.choices[0].message.content == final.choices[0].message.content == GREETING
    assert "".join(part.choices[0].delta.content or "" for part in quiet) == GREETING
    assert final.usage.to_dict() == whole.usage.to_dict()
    assert not any("usage" in part.to_dict() for part in quiet)
    assert [part.delta for part in events if part.type == "content.delta"] == ["", GREETING[:20], GREETING[20:]]


@pytest.mark.node
async def test_aimock_calls_a_tool_in_pieces(via_aimock: Sdk) -> None:
    _, final = await via_aimock.conversation(model="aimock/gpt-4o", messages=says("weather"), tools=[WEATHER])
    [call] = final.choices[0].message.tool_calls
    assert (call.function.name, call.function.arguments) == ("get_weather", '{"city":"Paris","unit":"celsius"}')


@pytest.mark.node
async def test_aimock_embeds_for_who_asks_for_base64_too(via_aimock: Sdk) -> None:
    ask: Any = {"model": "aimock/embed", "input": "hello"}
    packed = await via_aimock.get(lambda client: client.embeddings.create(**ask))
    plain = await via_aimock.get(lambda client: client.embeddings.create(**ask, encoding_format="float"))
    assert packed.data[0].embedding == plain.data[0].embedding == [0.25, -0.5, 1.0]


@pytest.mark.node
async def test_aimock_refuses_and_the_package_raises_its_class(via_aimock: Sdk) -> None:
    with pytest.raises(openai.RateLimitError) as caught:
        await via_aimock.get(
            lambda client: client.with_options(max_retries=0).chat.completions.create(
                model="aimock/gpt-4o", messages=says("too fast")
            )
        )
    error = caught.value.response.json()["error"]
    assert (error["message"], error["type"]) == ("Rate limited", "rate_limit_error")


@pytest.mark.node
async def test_a_stream_that_aimock_cuts_is_an_error(via_aimock: Sdk) -> None:
    parts: list[Any] = []
    stream = await via_aimock.client.chat.completions.create(
        model="aimock/gpt-4o", messages=says("be long"), stream=True
    )

    async def drain() -> None:
        async for part in stream:
            parts.append(part.choices[0].delta.content)  # noqa: PERF401 - what came before the error counts

    with pytest.raises(openai.APIError) as caught:
        await drain()
    assert caught.value.code == "stream_interrupted"
    assert parts[:2] == ["", "This answer is cut o"]  # the third piece may die with the connection, inside aimock
