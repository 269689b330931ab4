"""LoRAX, which Predibase serves: OpenAI, except that tool calls are not streamed and embeddings have another shape.

https://github.com/predibase/lorax, router/src/lib.rs: what it streams has `tool_calls: None`, still to be done there;
`EmbedRequest` is `{"inputs": "one text"}` and `EmbedResponse` is `{"embeddings": [...]}`.
"""

from collections.abc import Mapping
from typing import ClassVar

import msgspec
from msgspec import Raw

from providers.dialects.openai import OpenAI
from providers.targets import ProviderCard

NOTHING = (b"", b"null", b"[]")
NO_USAGE = Raw(b'{"prompt_tokens":0,"total_tokens":0}')


class Predibase(OpenAI):
    """One provider for each deployment; `model` is an adapter, and "" the base model."""

    name: ClassVar[str] = "predibase"
    label: ClassVar[str] = "Predibase, and LoRAX servers"
    converts: ClassVar[frozenset[str]] = frozenset({"/embeddings"})
    probe_path: ClassVar[str | None] = None  # there is no /models

    def streams(self, path: str, fields: Mapping[str, Raw]) -> bool:
        return bytes(fields.get("tools", b"")) in NOTHING

    def request(self, provider: ProviderCard, path: str, fields: dict[str, Raw]) -> None:
        """LoRAX embeds one text at a time; it says itself that a list is none."""
        given = fields.get("input")
        if given is None:
            return
        if bytes(given)[:1] == b"[":
            texts = msgspec.json.decode(given, type=list[Raw])
            given = texts[0] if len(texts) == 1 else given
        fields.setdefault("inputs", given)

    def answer(self, path: str, fields: dict[str, Raw]) -> dict[str, Raw]:
        """`{"embeddings": [0.1, ...]}`, or a list of such lists."""
        found = fields.get("embeddings")
        if found is None:
            return fields
        vectors = msgspec.json.decode(found, type=list[Raw])
        if not vectors or bytes(vectors[0])[:1] != b"[":
            vectors = [found]
        data = [{"object": "embedding", "index": index, "embedding": vector} for index, vector in enumerate(vectors)]
        rest = {name: raw for name, raw in fields.items() if name != "embeddings"}
        head = {"object": Raw(b'"list"'), "data": Raw(msgspec.json.encode(data)), "model": Raw(b'""')}
        return {**head, "usage": NO_USAGE, **rest}
