"""The openai package's two clients, asked in the same words."""

import asyncio
from collections.abc import Callable
from typing import Any

from tests.canaries import PROMPT

MESSAGES: Any = [{"role": "user", "content": PROMPT}]


class Sdk:
    """One of the package's clients; the sync one works in a thread."""

    def __init__(self, client: Any, *, blocking: bool) -> None:
        self.client, self.blocking = client, blocking

    async def get(self, ask: Callable[[Any], Any]) -> Any:
        """The answer to one call."""
        if self.blocking:
            return await asyncio.to_thread(ask, self.client)
        return await ask(self.client)

    async def every(self, ask: Callable[[Any], Any]) -> list[Any]:
        """All that a stream, or a list in pages, brings."""
        if self.blocking:
            return await asyncio.to_thread(lambda: list(ask(self.client)))
        answer = ask(self.client)
        return [part async for part in (await answer if hasattr(answer, "__await__") else answer)]

    async def conversation(self, **ask: Any) -> tuple[list[Any], Any]:
        """`chat.completions.stream`: its events, its final completion."""
        manager = self.client.chat.completions.stream(**ask)
        if not self.blocking:
            async with manager as stream:
                return [part async for part in stream], await stream.get_final_completion()

        def work() -> tuple[list[Any], Any]:
            with manager as stream:
                return list(stream), stream.get_final_completion()

        return await asyncio.to_thread(work)
