"""Replicate's own API: a prediction is created, streamed from an address of its own or polled, and has a prompt.

https://replicate.com/docs/reference/http and https://replicate.com/docs/reference/streaming; the events are those of
https://github.com/replicate/replicate-python, replicate/stream.py. gateway/forwarding/predictions.py makes the calls.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import msgspec
from msgspec import Raw

from providers.dialects.openai import BadModelName, OpenAI
from providers.edits import Refused
from providers.targets import ProviderCard, Target

# `owner/name` for an official model, `owner/name:version` or the version alone, `deployments/owner/name`.
PART = r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}"
VERSION = r"[0-9a-f]{40,64}"
MODEL = re.compile(
    rf"deployments/(?P<deployment>{PART}/{PART})\Z|(?!deployments/)(?P<name>{PART}/{PART})\Z"
    rf"|({PART}/{PART}:)?(?P<version>{VERSION})\Z"
)
FORMS = ("prompt", "messages", "llama3", "chatml")
# https://www.llama.com/docs/model-cards-and-prompt-formats/meta-llama-3/
LLAMA3 = "<|start_header_id|>{role}<|end_header_id|>\n\n{text}<|eot_id|>"
CHATML = "<|im_start|>{role}\n{text}<|im_end|>\n"


class Replicate(OpenAI):
    """`input` of its options says how a chat becomes what a model takes; other fields go into the input as they are."""

    name: ClassVar[str] = "replicate"
    label: ClassVar[str] = "Replicate (predictions)"
    needs_credential: ClassVar[bool] = True
    converts: ClassVar[frozenset[str]] = frozenset({"/chat/completions", "/completions"})
    predicts: ClassVar[bool] = True
    probe_path: ClassVar[str | None] = "/account"
    options: ClassVar[dict[str, str]] = {
        "input": f"how a Replicate model takes a chat: {', '.join(FORMS)}; prompt is what is meant without it",
        "drain": OpenAI.options["drain"],
    }

    choices: ClassVar[dict[str, tuple[str, ...]]] = {"input": FORMS}

    def url(self, target: Target, path: str) -> str:
        base = target.provider.base_url
        if path not in self.converts:
            return base + path
        found = _model(target.model)
        if found["deployment"]:
            return f"{base}/deployments/{found['deployment']}/predictions"
        return f"{base}/predictions" if found["version"] else f"{base}/models/{found['name']}/predictions"

    def asks_for_usage(self, provider: ProviderCard) -> bool:
        return False

    def request(self, provider: ProviderCard, path: str, fields: dict[str, Raw]) -> None:
        """`{"input": {...}, "stream": true}`; raises Refused for what no prompt can hold."""
        model, stream = msgspec.json.decode(fields.pop("model"), type=str), fields.pop("stream", Raw(b"false"))
        given = {name: msgspec.json.decode(raw) for name, raw in fields.items()}
        fields.clear()
        stop = given.pop("stop", None)
        if stop:
            given["stop_sequences"] = stop if isinstance(stop, str) else ",".join(map(str, stop))
        if path == "/chat/completions":
            given = {**_spoken(given.pop("messages", []), provider.options.get("input", "prompt")), **given}
        version = _model(model)["version"]
        if version:
            fields["version"] = Raw(msgspec.json.encode(version))
        fields["input"] = Raw(msgspec.json.encode(given))
        if bytes(stream) == b"true":
            fields["stream"] = stream


def _model(name: str) -> Mapping[str, str | None]:
    found = MODEL.match(name)
    if found is None:
        raise BadModelName(name)
    return found.groupdict()


def _spoken(messages: object, form: str) -> dict[str, Any]:
    """The part of the input that stands for the conversation."""
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise Refused("messages", "`messages` must be a list of messages.")
    if form == "messages":
        return {"messages": messages}
    turns = [(str(message.get("role")), _text(message.get("content"))) for message in messages]
    if form in ("llama3", "chatml"):
        frame, begin = (LLAMA3, "<|begin_of_text|>") if form == "llama3" else (CHATML, "")
        said = "".join(frame.format(role=role, text=text) for role, text in turns)
        opening = frame.partition("{text}")[0].format(role="assistant")
        return {"prompt": begin + said + opening, "prompt_template": "{prompt}"}
    return _prompt(turns)


def _prompt(turns: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """One turn is the prompt itself; of several each says whose it is."""
    system = "\n\n".join(text for role, text in turns if role in ("system", "developer"))
    rest = [(role, text) for role, text in turns if role not in ("system", "developer")]
    if len(rest) == 1:
        prompt = rest[0][1]
    else:
        prompt = "\n\n".join(f"{role.capitalize()}: {text}" for role, text in rest) + "\n\nAssistant:"
    return {"prompt": prompt, **({"system_prompt": system} if system else {})}


def _text(content: object) -> str:
    if isinstance(content, list):
        if any(not isinstance(part, dict) or part.get("type") != "text" for part in content):
            raise Refused("messages", "This provider's models are given text: send no pictures, sounds or files.")
        return "\n".join(str(part.get("text", "")) for part in content)
    return content if isinstance(content, str) else ""
