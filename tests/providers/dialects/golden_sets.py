"""Golden sets: what a client asks, what goes upstream for it, what comes back, what the client sees; to the byte.

One file in golden/ for each preset. `{upstream}` stands for the provider's address, NOW for the second at which a
name had to be made, MADE for the name.
"""

import re
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from gateway.forwarding import predictions, sleepers
from providers.presets import Preset, fill, presets
from tests.gateway import house
from tests.gateway.house import Door
from tests.scripted import Received, Script, ScriptedUpstream, head

FOLDER = Path(__file__).with_name("golden")
SHOWN = ("content-type", "retry-after", "x-should-retry")
UNSTABLE = frozenset({"host", "content-length"})


@dataclass(frozen=True)
class Exchange:
    """One request to the provider and its answer."""

    request: Mapping[str, Any]
    answer: Mapping[str, Any]


@dataclass(frozen=True)
class Case:
    name: str
    path: str
    ask: str
    exchanges: tuple[Exchange, ...]
    view: Mapping[str, Any]


@dataclass(frozen=True)
class Golden:
    preset: Preset
    source: tuple[str, ...]
    options: Mapping[str, Any]
    model: str
    cases: tuple[Case, ...]


def names() -> list[str]:
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load(name: str) -> Golden:
    data = yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))
    cases = []
    for case, parts in data["cases"].items():
        exchanges = tuple(Exchange(part["request"], part["answer"]) for part in parts["upstream"])
        cases.append(Case(case, parts["path"], parts["client"], exchanges, parts["view"]))
    return Golden(presets()[name], tuple(data["source"]), data.get("options", {}), data["model"], tuple(cases))


@asynccontextmanager
async def opened(sets: Sequence[Golden], scripted: ScriptedUpstream, data_dir: Path) -> AsyncIterator[Door]:
    """The gateway with a provider made of each preset, whose address leads to the scripted upstream."""

    def configure() -> str:
        for golden in sets:
            preset = golden.preset
            base_url, options = fill(preset.base_url, {**preset.options, **golden.options})
            row = house.provider(
                preset.name,
                scripted.url + urlsplit(base_url).path if base_url else "",
                dialect=preset.dialect,
                options=options,
                quirks=dict(preset.quirks),
                timeouts=dict(preset.timeouts),
            )
            house.alias(preset.name, (row, golden.model))
        return house.client_key()[1]

    async with house.open_house(configure, data_dir) as door:
        yield door


async def play(door: Door, scripted: ScriptedUpstream, case: Case) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """What went upstream, and what the client saw."""
    scripted.requests.clear()
    scripted.queue.clear()
    scripted.enqueue(*[answer(exchange.answer, scripted.url) for exchange in case.exchanges])
    async with door.http(timeout=30) as http:
        response = await http.post(
            door.url.removesuffix("/v1") + case.path,
            content=case.ask.encode(),
            headers={"content-type": "application/json"},
        )
    headers = {name: response.headers[name] for name in SHOWN if name in response.headers}
    view = {"status": response.status_code, "headers": headers, "body": stable(response.text)}
    return [sent(request) for request in scripted.requests], view


def answer(given: Mapping[str, Any], upstream: str) -> Script:
    body = given["body"].replace("{upstream}", upstream).encode()
    return [head(given["status"], {**given["headers"], "content-length": str(len(body))}) + body]


def sent(request: Received) -> dict[str, Any]:
    headers = {name.lower(): value for name, value in request.headers if name.lower() not in UNSTABLE}
    return {
        "target": f"{request.method} {request.target}",
        "headers": headers,
        "body": request.body.decode(),
    }


def stable(text: str) -> str:
    """The text without what is made anew each time."""

    def moment(match: re.Match[str]) -> str:
        return '"created":NOW' if abs(int(match[1]) - time.time()) < 600 else match[0]

    text = re.sub(r'"created":(\d+)', moment, text)
    text = re.sub(r"\bfp_echo\w+", "fp_MADE", text)
    return re.sub(r"\b(chatcmpl-|cmpl-|call_)(?=[0-9a-f]*[0-9])[0-9a-f]{24,30}\b", r"\1MADE", text)


def hurry(monkeypatch: Any) -> None:
    """Pauses between two questions of 10 ms instead of a second."""
    monkeypatch.setattr(sleepers, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(predictions, "FIRST_POLL", 0.01)
