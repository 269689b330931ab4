"""Budgets and caps where one call is many answers, or where nobody knows beforehand what it costs."""

import json
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import sync_to_async

from ledger.models import BudgetAccount, PriceRow
from tests.gateway import golden, house
from tests.gateway.leaving import ASK
from tests.scripted import RESET, SSE_HEADERS, Chunk, ScriptedUpstream, Step, head, json_answer

D = Decimal
TEXT = {
    "id": "cmpl_1",
    "object": "text_completion",
    "created": 1,
    "model": "gpt-4o",
    "choices": [{"index": 0, "text": "a", "finish_reason": "stop", "logprobs": None}],
    "usage": {"prompt_tokens": 5, "completion_tokens": 10, "total_tokens": 15},
}
BIG = 10**400


def costly(scripted: ScriptedUpstream, *, rates: dict[str, Any], **key: Any) -> Callable[[], str]:
    def configure() -> str:
        lab = house.provider("lab", scripted.url + "/v1")
        house.alias("fast", (lab, "gpt-4o"))
        PriceRow.objects.create(provider="lab", model="gpt-4o", starts_at="2020-01-01T00:00Z", **rates)
        return house.client_key(**key)[1]

    return configure


async def spent() -> Decimal:
    found: Decimal = (await sync_to_async(BudgetAccount.objects.get)()).spent
    return found


async def test_pictures_are_set_aside_by_their_number_and_taken_from_the_budget(
    transactional_db: None, tmp_path: Path, scripted: ScriptedUpstream
) -> None:
    scripted.default = json_answer({"created": 1, "data": [{"b64_json": "AA"}] * 2})
    configure = costly(scripted, rates={"image": "0.02"}, budget="0.10/total")
    async with house.open_house(configure, tmp_path) as door, door.http() as http:
        body = {"model": "fast", "prompt": "a cat", "n": 2}
        answers = [await http.post("/images/generations", json=body) for _ in range(4)]
        rows = await door.rows(2)
        assert [answer.status_code for answer in answers] == [200, 200, 429, 429]
        assert answers[2].json()["error"]["code"] == "insufficient_quota"
        assert [(row.cost, row.reserved, row.images) for row in rows] == [(D("0.04"), D("0.04"), 2)] * 2
        assert await spent() == D("0.08")


async def test_sound_of_unknown_length_is_taken_from_the_budget_and_refused_once_that_is_spent(
    transactional_db: None, tmp_path: Path, scripted: ScriptedUpstream
) -> None:
    scripted.default = json_answer({"text": "hello", "duration": 60})
    configure = costly(scripted, rates={"second": "0.001"}, budget="0.10/total")
    async with house.open_house(configure, tmp_path) as door, door.http() as http:
        for number, status in enumerate((200, 200, 429), 1):
            answer = await http.post(
                "/audio/transcriptions", files={"file": ("a.wav", b"RIFF")}, data={"model": "fast"}
            )
            assert answer.status_code == status
            rows = await door.rows(min(number, 2))
        assert [(row.cost, row.accounts != []) for row in rows] == [(D("0.06"), True)] * 2
        assert await spent() == D("0.12")


async def test_a_model_that_costs_nothing_answers_though_the_budget_is_spent(
    transactional_db: None, tmp_path: Path, scripted: ScriptedUpstream
) -> None:
    scripted.default = json_answer(golden.COMPLETION)
    configure = costly(scripted, rates={"input": "0", "output": "0"}, budget="0.01/total")

    def spend() -> None:
        BudgetAccount.objects.update(spent=D("0.01"))

    async with house.open_house(configure, tmp_path) as door, door.http() as http:
        assert (await http.post("/chat/completions", json=ASK)).status_code == 200
        await sync_to_async(spend)()
        assert (await http.post("/chat/completions", json=ASK)).status_code == 200


@pytest.mark.parametrize(
    ("more", "answers"),
    [
        ({"prompt": "a", "best_of": 20}, 20),
        ({"prompt": ["a"] * 10, "n": 2}, 20),
        ({"prompt": [[1, 2], [3]], "best_of": 3, "n": 1}, 6),
        ({"prompt": [1, 2, 3]}, 1),
        ({"prompt": ""}, 1),
        ({"prompt": []}, 1),
    ],
)
async def test_the_worst_case_of_a_completion_counts_every_answer_that_is_made(
    transactional_db: None, tmp_path: Path, scripted: ScriptedUpstream, more: dict[str, Any], answers: int
) -> None:
    scripted.default = json_answer(TEXT)
    configure = costly(scripted, rates={"input": "0", "output": "1000"}, budget="100/total")
    async with house.open_house(configure, tmp_path) as door, door.http() as http:
        answer = await http.post("/completions", json={"model": "fast", "max_tokens": 50, **more})
        [row] = await door.rows(1)
    assert (answer.status_code, row.reserved) == (200, D("0.05") * answers)


@pytest.mark.parametrize(
    ("path", "body", "name"),
    [
        ("/completions", {"prompt": "a", "best_of": 3}, "best_of"),
        ("/completions", {"prompt": "a", "n": 3, "best_of": 3}, "n"),
        ("/images/generations", {"prompt": "a", "n": 3}, "n"),
        ("/images/generations", {"prompt": "a", "n": "3"}, "n"),
    ],
)
async def test_the_cap_of_choices_holds_for_whatever_makes_several(
    transactional_db: None, tmp_path: Path, scripted: ScriptedUpstream, path: str, body: dict[str, Any], name: str
) -> None:
    configure = costly(scripted, rates={"request": "0"}, max_n=2)
    async with house.open_house(configure, tmp_path) as door, door.http() as http:
        answer = await http.post(path, json={"model": "fast", **body})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, name)
    assert scripted.requests == []


async def test_pictures_count_for_the_end_user_that_the_body_names(
    transactional_db: None, tmp_path: Path, scripted: ScriptedUpstream
) -> None:
    scripted.default = json_answer({"created": 1, "data": [{"b64_json": "AA"}]})
    configure = costly(scripted, rates={"image": "0.02"}, end_user_budget="0.03/total")
    async with house.open_house(configure, tmp_path) as door, door.http() as http:
        statuses = []
        for user in ("ann", "ann", "bob"):
            body = {"model": "fast", "prompt": "a cat", "user": user}
            statuses.append((await http.post("/images/generations", json=body)).status_code)
        rows = await door.rows(2)
    assert statuses == [200, 429, 200]
    assert [row.end_user for row in rows] == ["ann", "bob"]


@pytest.mark.parametrize("bound", [{"tpm": 1000}, {"budget": "1/total"}])
@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("/chat/completions", "max_tokens"),
        ("/chat/completions", "max_completion_tokens"),
        ("/chat/completions", "n"),
        ("/completions", "best_of"),
        ("/responses", "max_output_tokens"),
        ("/messages", "max_tokens"),
    ],
)
async def test_s39_a_number_that_nobody_means_is_refused_by_its_name(
    transactional_db: None, tmp_path: Path, scripted: ScriptedUpstream, bound: dict[str, Any], path: str, field: str
) -> None:
    configure = costly(scripted, rates={"input": "1", "output": "1"}, **bound)
    async with house.open_house(configure, tmp_path) as door, door.http() as http:
        for number in (BIG, 10**12):
            answer = await http.post(path, json={"model": "fast", "messages": [], field: number})
            assert answer.status_code == 400
            assert field in answer.text
    assert scripted.requests == []


@pytest.mark.parametrize("streams", [False, True])
async def test_a_response_in_the_background_is_charged_the_most_that_it_can_cost(
    transactional_db: None, tmp_path: Path, scripted: ScriptedUpstream, streams: bool
) -> None:
    queued: dict[str, Any] = {"id": "resp_1", "object": "response", "status": "queued", "output": [], "usage": None}
    created = b"event: response.created\ndata: " + json.dumps({"type": "response.created", "response": queued}).encode()
    stream: list[Step] = [head(200, {**SSE_HEADERS, "transfer-encoding": "chunked"}), Chunk(created + b"\n\n"), RESET]
    scripted.default = stream if streams else json_answer(queued)
    configure = costly(scripted, rates={"input": "0", "output": "1000"}, budget="0.10/total")
    async with house.open_house(configure, tmp_path) as door, door.http() as http:
        body = {"model": "fast", "input": "a", "background": True, "max_output_tokens": 50, "stream": streams}
        answers = [(await http.post("/responses", json=body)).status_code for _ in range(3)]
        rows = await door.rows(2)
        assert answers == [200, 200, 429]
        assert [(row.cost, row.price_source) for row in rows] == [(D("0.05"), "reservation")] * 2
        assert await spent() == D("0.10")


async def test_one_whose_usage_is_told_costs_that(
    transactional_db: None, tmp_path: Path, scripted: ScriptedUpstream
) -> None:
    usage = {"input_tokens": 5, "output_tokens": 10, "total_tokens": 15}
    scripted.enqueue(json_answer({"id": "resp_1", "object": "response", "output": [], "usage": usage}))
    scripted.enqueue(json_answer({"error": {"message": "no"}}, 400))
    configure = costly(scripted, rates={"input": "0", "output": "1000"}, budget="1/total")
    async with house.open_house(configure, tmp_path) as door, door.http() as http:
        for _ in range(2):
            body = {"model": "fast", "input": "a", "background": True, "max_output_tokens": 50}
            await http.post("/responses", json=body)
        assert [row.cost for row in await door.rows(2)] == [D("0.01"), D(0)]


@pytest.mark.parametrize("given", [{"max_completion_tokens": 10}, {"max_output_tokens": 10}, {}])
async def test_a_completion_is_bounded_by_the_field_that_bounds_it(
    transactional_db: None, tmp_path: Path, scripted: ScriptedUpstream, given: dict[str, Any]
) -> None:
    scripted.default = json_answer(TEXT)
    configure = costly(scripted, rates={"input": "0", "output": "1"}, max_tokens=77)
    async with house.open_house(configure, tmp_path) as door, door.http() as http:
        await http.post("/completions", json={"model": "fast", "prompt": "a", **given})
    assert scripted.requests[0].json()["max_tokens"] == 77


async def test_work_of_which_nobody_says_how_much_it_was_has_no_cost_by_the_token_and_never_none_at_all(
    transactional_db: None, tmp_path: Path, scripted: ScriptedUpstream
) -> None:
    scripted.default = json_answer({"id": "thing_1", "object": "thing"})
    configure = costly(scripted, rates={"input": "1", "output": "1"})
    async with house.open_house(configure, tmp_path) as door, door.http() as http:
        await http.post("/things", json={"model": "fast"})
        [row] = await door.rows(1)
    assert (row.sent, row.usage_source, row.cost, row.price_source) == (True, "none", None, "")
