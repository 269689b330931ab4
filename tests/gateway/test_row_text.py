"""Text from strangers in ledger rows: model names, ids and codes of providers. None keeps a row from being stored."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.gateway import golden
from tests.gateway.processes import Gateway, Site
from tests.scripted import ScriptedUpstream, Step, head, json_answer

EMOJI = "\U0001f600"
HOSTILE = {
    "": "",
    "x" * 300: "x" * 300,
    EMOJI * 300: EMOJI * 300,
    "nul\0in\0it": "nul�in�it",
    "\0": "�",
    "'; DROP TABLE ledger_usagerecord; --": "'; DROP TABLE ledger_usagerecord; --",
    "line\nbreak\r\ttab\x1b[31m": "line\nbreak\r\ttab\x1b[31m",
    "%s %(a)s {} \\x00 \\u0000": "%s %(a)s {} \\x00 \\u0000",
    "\u2028\ufeff\uffff\u202e": "\u2028\ufeff\uffff\u202e",
}


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def database_url(request: pytest.FixtureRequest) -> str:
    """ "" for SQLite in the site's folder."""
    return "" if request.param == "sqlite" else str(request.getfixturevalue("postgres_url"))


def odd_answer(request_id: bytes) -> list[Step]:
    body = json.dumps(golden.COMPLETION).encode()
    fields = {"content-type": "application/json", "content-length": str(len(body))}
    return [head(200, fields)[:-2] + b"x-request-id: " + request_id + b"\r\n\r\n" + body]


async def test_hostile_names_ids_and_codes_become_rows_and_hold_up_no_other(
    tmp_path: Path, scripted: ScriptedUpstream, database_url: str
) -> None:
    refusal: dict[str, Any] = {"error": {"message": "no", "type": "t", "param": None, "code": "a\0b" + EMOJI * 200}}
    async with Site(tmp_path, scripted.port, database_url) as site:
        await site.operate("house.alias('*', (Provider.objects.get(), 'm'))")
        async with Gateway(site, "one") as gateway, gateway.http(timeout=20) as http:
            scripted.default = odd_answer(b"\xff\xfe'\"" + b"x" * 5000)
            for name in HOSTILE:
                answer = await http.post("/chat/completions", json={"model": name, "messages": []})
                assert answer.status_code == 200, (name, answer.text)
            too_long = await http.post("/chat/completions", json={"model": "x" * 301})
            assert (too_long.status_code, too_long.json()["error"]["param"]) == (400, "model")
            lone = await http.post("/chat/completions", content=b'{"model":"\\ud800"}')
            assert lone.status_code == 400
            scripted.default = json_answer(refusal, status=400)
            assert (await http.post("/chat/completions", json={"model": "refused"})).status_code == 400
            scripted.default = json_answer(golden.COMPLETION)
            assert (await http.post("/chat/completions", json={"model": "last"})).status_code == 200
            await site.rows(len(HOSTILE) + 2)
            names = "'model', 'error_code', 'upstream_request_id', 'outcome'"
            rows = await site.operate(f"result = list(UsageRecord.objects.order_by('started_at').values({names}))")
    assert [row["model"] for row in rows] == [*HOSTILE.values(), "refused", "last"]
    assert {row["upstream_request_id"] for row in rows[: len(HOSTILE)]} == {"\xff\xfe'\"" + "x" * 196}
    refused, last = rows[-2:]
    assert refused["error_code"].startswith("a�b" + EMOJI)
    assert len(refused["error_code"]) == 100
    assert last["outcome"] == "ok"
    assert not (tmp_path / "one" / "journal" / "rejected.jsonl").exists()
