"""A body on its way through: what is held, where, and what is let go; the provider gets the client's bytes."""

import asyncio
import errno
import os
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway import bodies
from gateway.bodies import ClientGone, Incoming
from gateway.errors import BadRequest, BodyTimeout, BodyTooLarge, DuplicateField, Overloaded
from gateway.process import Process
from gateway.receipts import Call
from gateway.spool import WINDOW, Disk
from gateway.uploads import Upload
from gateway.upstream.client import Upstream
from providers.addresses import AddressPolicy
from tests.gateway.house import eventually

BOUNDARY = "b0undary"
FORM = f"multipart/form-data; boundary={BOUNDARY}"


def part(name: str, content: bytes, *, file: bool = False) -> bytes:
    disposition = f'form-data; name="{name}"' + ('; filename="a.wav"' if file else "")
    return f"--{BOUNDARY}\r\nContent-Disposition: {disposition}\r\n\r\n".encode() + content + b"\r\n"


END = f"--{BOUNDARY}--\r\n".encode()
AUDIO = os.urandom(1_000_000)
FILE_FIRST = part("file", AUDIO, file=True) + part("model", b"whisper") + part("n", b"2") + END
MODEL_FIRST = part("model", b"whisper") + part("file", AUDIO, file=True) + END


@pytest.fixture
async def process(tmp_path: Path) -> AsyncIterator[Process]:
    upstream = Upstream(AddressPolicy([], development=True))
    made = Process(upstream, None, asyncio.get_running_loop().time, None, disk=Disk(tmp_path))  # type: ignore[arg-type]
    yield made
    made.disk.close()
    await upstream.aclose()
    assert (made.memory.held, made.disk.held) == (0, 0)
    assert list(tmp_path.iterdir()) == []


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


class Client:
    """A body in pieces, as a server hands it on; an exception among them is raised, None is a client that leaves."""

    def __init__(self, *pieces: bytes | None, ends: bool = True) -> None:
        self.pieces = list(pieces)
        self.ends = ends
        self.given = 0

    async def receive(self) -> dict[str, Any]:
        if not self.pieces:
            await asyncio.Event().wait()
        piece = self.pieces.pop(0)
        if piece is None:
            return {"type": "http.disconnect"}
        self.given += len(piece)
        return {"type": "http.request", "body": piece, "more_body": bool(self.pieces) or not self.ends}


def cut(body: bytes, size: int = 64 * 1024) -> list[bytes]:
    return [body[start : start + size] for start in range(0, len(body), size)]


def upload(
    process: Process, client: Client, content_type: str = FORM, length: int | None = None
) -> tuple[Upload, Call]:
    call = Call("req_1", "req_1", process, process.clock(), 0.0)
    return Upload(call, Incoming(call, client.receive, None if length is None else b"%d" % length), content_type), call


async def everything(source: Any) -> bytes:
    async with aclosing(source.pieces()) as pieces:
        return b"".join([piece async for piece in pieces])


@pytest.mark.parametrize("body", [FILE_FIRST, MODEL_FIRST], ids=["file first", "model first"])
async def test_the_model_is_found_wherever_it_stands_and_nothing_else_changes(process: Process, body: bytes) -> None:
    body_upload, call = upload(process, Client(*cut(body)), length=len(body))
    await body_upload.look(whole=False)
    assert body_upload.values["model"] == b"whisper"
    source = body_upload.source("whisper-large-v3")
    assert source.length == len(body) + len("-large-v3")
    assert await everything(source) == body.replace(b"\r\nwhisper\r\n", b"\r\nwhisper-large-v3\r\n")
    call.release()


async def test_a_name_that_stays_changes_no_byte(process: Process) -> None:
    body_upload, call = upload(process, Client(*cut(MODEL_FIRST)))
    await body_upload.look(whole=False)
    assert body_upload.source("whisper").length is None
    assert await everything(body_upload.source("whisper")) == MODEL_FIRST
    call.release()


async def test_what_comes_before_the_model_is_held_in_a_file_beyond_a_small_window(
    process: Process, tmp_path: Path
) -> None:
    before = open_files()
    body_upload, call = upload(process, Client(*cut(FILE_FIRST)))
    await body_upload.look(whole=False)
    assert process.memory.held <= WINDOW + 64 * 1024
    assert len(AUDIO) - 2 * WINDOW < process.disk.held <= len(FILE_FIRST)
    assert open_files() == before + 1
    assert list(tmp_path.iterdir()) == []  # it has no name: nothing stays of it, whatever dies
    call.release()
    assert open_files() == before
    assert (process.memory.held, process.disk.held) == (0, 0)


async def test_behind_the_model_nothing_is_held_but_the_window(process: Process) -> None:
    client = Client(*cut(MODEL_FIRST))
    body_upload, call = upload(process, client)
    await body_upload.look(whole=False)
    assert client.given == 64 * 1024
    most = 0
    async with aclosing(body_upload.source("whisper").pieces()) as pieces:
        async for _ in pieces:
            most = max(most, process.memory.held)
    assert most <= WINDOW
    assert (process.memory.held, process.disk.held) == (0, 0)
    assert not body_upload.restarts
    call.release()


async def test_a_body_within_the_window_can_be_sent_again(process: Process) -> None:
    small = part("model", b"whisper") + part("file", AUDIO[:100_000], file=True) + END
    body_upload, call = upload(process, Client(*cut(small, 10_000)))
    await body_upload.look(whole=False)
    for name in ("whisper", "other"):
        assert await everything(body_upload.source(name)) == small.replace(
            b"\r\nwhisper\r\n", f"\r\n{name}\r\n".encode()
        )
        assert body_upload.restarts
    call.release()


@pytest.mark.parametrize("taken", [1, 5, 12, 100])
async def test_a_large_body_that_is_kept_can_be_sent_again_wherever_it_was_cut_off(
    process: Process, taken: int
) -> None:
    body_upload, call = upload(process, Client(*cut(MODEL_FIRST)))
    await body_upload.look(whole=False)
    body_upload.keep = True
    async with aclosing(body_upload.source("whisper").pieces()) as pieces:
        async for _ in pieces:
            taken -= 1
            if not taken:
                break
    assert body_upload.restarts
    assert await everything(body_upload.source("whisper")) == MODEL_FIRST
    call.release()


async def test_a_reader_that_is_cancelled_while_it_writes_to_the_disk_loses_nothing(process: Process) -> None:
    body_upload, call = upload(process, Client(*cut(MODEL_FIRST)))
    await body_upload.look(whole=False)
    body_upload.keep = True
    for steps in range(1, 60, 3):
        reader = asyncio.ensure_future(everything(body_upload.source("whisper")))
        for _ in range(steps):
            await asyncio.sleep(0)
        reader.cancel()
        await asyncio.gather(reader, return_exceptions=True)
    assert await everything(body_upload.source("whisper")) == MODEL_FIRST
    call.release()
    assert await eventually(lambda: process.disk.held == 0)


MODEL = st.sampled_from([b"", b"w", b"whisper", b"x" * 40])


@given(MODEL, st.sampled_from(["", "a", "large-v3", "y" * 50]), st.lists(st.integers(0, 400), max_size=10))
@settings(max_examples=200, deadline=None)
def test_the_name_is_exchanged_wherever_the_network_cuts(given_name: bytes, new: str, cuts: list[int]) -> None:
    body = part("file", b"\r\n--" * 20, file=True) + part("model", given_name) + part("x[]", b"1") + END
    places = sorted({0, len(body), *(min(place, len(body)) for place in cuts)})

    async def work() -> bytes:
        upstream = Upstream(AddressPolicy([], development=True))
        process = Process(upstream, None, asyncio.get_running_loop().time, None)  # type: ignore[arg-type]
        client = Client(*(body[start:end] for start, end in pairwise(places)))
        body_upload, call = upload(process, client)
        await body_upload.look(whole=False)
        source = body_upload.source(new)
        sent = await everything(source)
        assert source.length == len(sent)
        call.release()
        assert process.memory.held == 0
        await upstream.aclose()
        return sent

    assert asyncio.run(work()) == body.replace(part("model", given_name), part("model", new.encode()))


# --- what goes wrong --------------------------------------------------------------------------------------------------


async def read_all(process: Process, client: Client, content_type: str = FORM) -> None:
    body_upload, call = upload(process, client, content_type)
    try:
        await body_upload.look(whole=False)
        await everything(body_upload.source("whisper"))
    finally:
        call.release()


async def test_a_model_that_comes_a_second_time_ends_it_before_its_last_byte(process: Process) -> None:
    with pytest.raises(DuplicateField):
        await read_all(
            process, Client(part("model", b"whisper"), part("file", AUDIO, file=True) + part("model", b"dear"))
        )


async def test_a_form_that_breaks_off_is_a_400(process: Process) -> None:
    for body in (MODEL_FIRST, FILE_FIRST):
        with pytest.raises(BadRequest):
            await read_all(process, Client(*cut(body[:-10])))


async def test_a_client_that_leaves_midway_is_gone(process: Process) -> None:
    for body in (MODEL_FIRST, FILE_FIRST):
        with pytest.raises(ClientGone):
            await read_all(process, Client(*cut(body)[:3], None))


@pytest.mark.parametrize("content_type", [FORM, "application/octet-stream"])
async def test_more_than_the_cap_is_a_413(process: Process, monkeypatch: pytest.MonkeyPatch, content_type: str) -> None:
    assert bodies.MAX_UPLOAD == 512 * 1024 * 1024
    monkeypatch.setattr(bodies, "MAX_UPLOAD", 500_000)
    with pytest.raises(BodyTooLarge):
        await read_all(process, Client(*cut(FILE_FIRST)), content_type)


async def test_only_the_time_that_the_client_takes_counts(process: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "GRACE", 0.15)
    monkeypatch.setattr(bodies, "LEAST_SPEED", 2**30)
    body_upload, call = upload(process, Client(*cut(MODEL_FIRST)))
    await body_upload.look(whole=False)
    async with aclosing(body_upload.source("whisper").pieces()) as pieces:
        async for _ in pieces:
            await asyncio.sleep(0.05)  # a slow provider: a second in all
    call.release()
    with pytest.raises(BodyTimeout):
        await read_all(process, Client(*cut(MODEL_FIRST)[:3], ends=False))


async def test_memory_that_is_full_is_a_503(process: Process) -> None:
    process.memory.cap = 100_000
    with pytest.raises(Overloaded) as caught:
        await read_all(process, Client(*cut(FILE_FIRST)))
    assert caught.value.code == "buffers_full"


async def test_a_disk_account_that_is_full_is_a_503(process: Process) -> None:
    assert process.disk.cap == 4 * 1024**3
    process.disk.cap = 500_000
    with pytest.raises(Overloaded) as caught:
        await read_all(process, Client(*cut(FILE_FIRST)))
    assert (caught.value.code, caught.value.status) == ("spool_full", 503)


def full(*args: object) -> int:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    "broken",
    [
        lambda patch, process: patch.setattr(os, "pwrite", full),
        lambda patch, process: patch.setattr(process.disk, "open", full),
    ],
)
async def test_a_disk_that_is_full_is_a_503(
    process: Process, monkeypatch: pytest.MonkeyPatch, broken: Callable[[pytest.MonkeyPatch, Process], None]
) -> None:
    broken(monkeypatch, process)
    with pytest.raises(Overloaded) as caught:
        await read_all(process, Client(*cut(FILE_FIRST)))
    assert caught.value.code == "spool_full"


async def test_closed_while_it_is_written_to_its_file_goes_when_that_is_over(
    process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = open_files()
    slow = asyncio.Event()
    real, loop = os.pwrite, asyncio.get_running_loop()

    def pwrite(*args: Any) -> int:
        asyncio.run_coroutine_threadsafe(slow.wait(), loop).result()
        return real(*args)

    monkeypatch.setattr(os, "pwrite", pwrite)
    body_upload, call = upload(process, Client(*cut(FILE_FIRST)))
    looking = asyncio.ensure_future(body_upload.look(whole=False))
    assert await eventually(lambda: open_files() == before + 1)
    looking.cancel()
    await asyncio.gather(looking, return_exceptions=True)
    call.release()
    assert open_files() == before + 1
    slow.set()
    assert await eventually(lambda: open_files() == before)
