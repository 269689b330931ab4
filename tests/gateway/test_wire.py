"""What a provider's socket brings, handed on while its reader waits: in one piece, in order, and nothing lost."""

import asyncio

from aiohttp.client_exceptions import ClientPayloadError

from gateway.upstream.transport import Body
from gateway.upstream.wire import Wire

HEAD = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


class Socket(asyncio.Transport):
    def abort(self) -> None: ...

    def close(self) -> None: ...


class Plug:
    """As much of a connection as a body needs."""

    def __init__(self, wire: Wire) -> None:
        self.protocol, self.transport, self.released = wire, None, False

    def release(self) -> None:
        self.released = True

    def close(self) -> None:
        self.protocol = None  # type: ignore[assignment]


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


async def reading(taken: list[bytes], refused: tuple[bytes, ...] = ()) -> "tuple[Wire, asyncio.Task[list[bytes]]]":
    """A wire on which a body is being read, with a sink that takes all but what is refused."""
    wire = Wire(asyncio.get_running_loop())
    wire.connection_made(Socket())
    wire.expect("GET")
    wire.data_received(HEAD)
    _, payload = await wire.head()
    body = Body(Plug(wire), payload)  # type: ignore[arg-type]

    def sink(data: bytes) -> bool:
        if data in refused:
            return False
        taken.append(data)
        return True

    body.pipe(sink)

    async def read() -> list[bytes]:
        return [part async for part in body]

    task = asyncio.ensure_future(read())
    await asyncio.sleep(0)  # it waits now
    return wire, task


async def test_what_one_read_of_the_socket_brings_is_handed_on_in_one_piece_before_any_task_runs() -> None:
    taken: list[bytes] = []
    wire, task = await reading(taken)
    wire.data_received(chunk(b"one") + chunk(b"two"))
    wire.data_received(chunk(b"three"))
    assert taken == [b"onetwo", b"three"]
    wire.data_received(b"0\r\n\r\n")
    assert await task == []


async def test_what_the_sink_leaves_is_read_as_usual_and_what_comes_behind_it_does_not_overtake() -> None:
    taken: list[bytes] = []
    wire, task = await reading(taken, refused=(b"two",))
    wire.data_received(chunk(b"one"))
    wire.data_received(chunk(b"two"))
    wire.data_received(chunk(b"three"))  # the reader has not run yet
    assert taken == [b"one"]
    await asyncio.sleep(0.01)
    wire.data_received(chunk(b"four"))
    wire.data_received(b"0\r\n\r\n")
    assert taken == [b"one", b"four"]
    assert b"".join(await task) == b"twothree"


async def test_the_last_piece_is_handed_on_before_the_end_that_comes_with_it() -> None:
    taken: list[bytes] = []
    wire, task = await reading(taken)
    wire.data_received(chunk(b"last") + b"0\r\n\r\n")
    assert taken == [b"last"]
    assert await task == []


async def test_a_last_piece_that_the_sink_leaves_is_read_before_the_end_that_comes_with_it() -> None:
    taken: list[bytes] = []
    wire, task = await reading(taken, refused=(b"last",))
    wire.data_received(chunk(b"last") + b"0\r\n\r\n")
    assert await task == [b"last"]
    assert taken == []


async def test_a_connection_that_breaks_after_a_piece_gives_the_piece_and_then_the_failure() -> None:
    taken: list[bytes] = []
    wire, task = await reading(taken)
    wire.data_received(chunk(b"one") + b"5\r\ntw")
    wire.connection_lost(ConnectionResetError())
    assert taken == [b"onetw"]
    try:
        await task
    except ClientPayloadError:
        return
    raise AssertionError("the failure was lost")
