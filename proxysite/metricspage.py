"""/metrics, for Prometheus."""

import asyncio
from collections.abc import Callable, Sequence

from gateway.metrics import exposition
from gateway.metrics.pages import Series
from proxysite.guardedpage import GuardedPage


class MetricsPage(GuardedPage):
    path = "/metrics"
    content_type = exposition.CONTENT_TYPE

    def __init__(self, total: Callable[[], Series | None], token: str, networks: Sequence[str]) -> None:
        super().__init__(token, networks)
        self.total = total

    async def body(self) -> bytes:
        # In a thread: it reads the pages of all processes.
        return await asyncio.to_thread(self.text)

    def text(self) -> bytes:
        return exposition.text(self.total() or {})
