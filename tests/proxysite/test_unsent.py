"""What waits for a client to take it: for how long, and how little of it the client may take."""

import asyncio
from typing import cast

from proxysite.unsent import PARTS, Unsent
from tests.gateway.house import eventually

FIRST = 1_000 * PARTS  # bytes


class Pretended:
    """A transport that has so many bytes unsent, each time that it is asked."""

    def __init__(self, *sizes: int) -> None:
        self.sizes = list(sizes)

    def get_write_buffer_size(self) -> int:
        return self.sizes.pop(0)


def watched(*sizes: int) -> tuple[Unsent, Pretended, list[str]]:
    given_up: list[str] = []
    transport = Pretended(*sizes)
    unsent = Unsent(cast("asyncio.Transport", transport), 0.01, lambda: given_up.append("given up"))
    unsent.watch()
    return unsent, transport, given_up


async def test_a_client_that_takes_a_sixteenth_each_time_is_waited_for() -> None:
    unsent, transport, given_up = watched(*range(FIRST, -1, -1_000), 0)
    assert await eventually(lambda: not transport.sizes)
    assert given_up == ["given up"]  # only at the end, when nothing is left to take
    unsent.end()


async def test_a_client_that_takes_less_is_given_up() -> None:
    _, transport, given_up = watched(FIRST, FIRST - 1_000, FIRST - 1_999, 0)
    assert await eventually(lambda: bool(given_up))
    assert transport.sizes == [0]


async def test_nobody_is_given_up_after_the_end() -> None:
    unsent, transport, given_up = watched(FIRST, FIRST)
    unsent.end()
    await asyncio.sleep(0.05)
    assert (transport.sizes, given_up) == ([FIRST], [])
