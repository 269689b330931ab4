"""Whatever OpenAI's specification allows, and what it forbids: every call is answered in JSON, and none breaks us."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, Verbosity, given, settings
from schemathesis import Case, GenerationMode
from schemathesis.core.result import Ok

from tests.gateway import golden, house
from tests.gateway.house import Door
from tests.gateway.test_messages import MESSAGE
from tests.gateway.test_responses import RESPONSE
from tests.scripted import Received, Script, ScriptedUpstream, json_answer
from tests.specification import document

ANSWERS = {
    "/v1/chat/completions": golden.COMPLETION,
    "/v1/completions": golden.TEXT_COMPLETION,
    "/v1/embeddings": golden.EMBEDDINGS,
    "/v1/responses": RESPONSE,
    "/v1/messages": MESSAGE,
}
log = logging.getLogger(__name__)
MODES = (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
JSON_OR_EVENTS = ("application/json", "text/event-stream")


def answer(request: Received) -> Script:
    """A provider that takes everything."""
    return json_answer(ANSWERS.get(request.target.partition("?")[0], {"id": "thing_1", "object": "thing"}))


@pytest.fixture
async def open_door(transactional_db: None, tmp_path: Path, scripted: ScriptedUpstream) -> AsyncIterator[Door]:
    """Every model's name leads somewhere; the key may use all families."""
    scripted.default = answer

    def configure() -> str:
        house.alias("*", (house.provider("lab", scripted.url + "/v1"), ""))
        return house.client_key()[1]

    async with house.open_house(configure, tmp_path) as opened:
        yield opened


def call_all(door: Door, *, examples: int, every: int) -> tuple[int, list[str]]:
    """Call one operation in `every` with so many good and so many bad examples: how many calls, and what was wrong."""
    url, key = door.url.removesuffix("/v1"), door.key
    schema = schemathesis.openapi.from_dict(document.read())
    operations = [found.ok() for found in schema.get_all_operations() if isinstance(found, Ok)][::every]
    calls, wrong = 0, []

    def check(case: Case[Any]) -> None:
        nonlocal calls
        headers = {name: value for name, value in case.headers.items() if name.lower() != "authorization"}
        case.headers.clear()
        try:
            got = case.call(base_url=url, headers={**headers, "Authorization": f"Bearer {key}"})
        except ValueError:
            return  # what the HTTP library itself refuses to send
        calls += 1
        kind = (got.headers.get("content-type") or [""])[0]
        good = got.status_code < 500 and (got.status_code == 204 or kind.startswith(JSON_OR_EVENTS))
        try:
            json.loads(got.content or b"{}") if "json" in kind else None
        except ValueError:
            good = False
        if not good:
            wrong.append(f"{case.method} {case.formatted_path}: {got.status_code} {kind} {got.content[:300]!r}")

    profile = settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        verbosity=Verbosity.quiet,
        suppress_health_check=list(HealthCheck),
    )
    for operation in operations:
        for mode in MODES:
            run: Any = profile(given(case=operation.as_strategy(generation_mode=mode))(check))
            try:
                run()
            except schemathesis.errors.SchemathesisError:
                continue  # an operation without parameters has no bad examples
    return calls, wrong


async def test_some_calls_of_the_specification_are_answered_in_json(open_door: Door) -> None:
    calls, wrong = await asyncio.to_thread(call_all, open_door, examples=1, every=16)
    assert wrong == []
    assert calls > 20


@pytest.mark.slow
async def test_ten_thousand_calls_of_the_specification_are_answered_in_json(
    open_door: Door,
) -> None:
    calls, wrong = await asyncio.to_thread(call_all, open_door, examples=20, every=1)
    log.info("%d calls", calls)
    assert wrong == []
    assert calls >= 10_000
