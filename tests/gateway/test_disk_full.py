"""R32: no space on the disk that holds the journal and the database."""

import shutil
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import httpx
import pytest

from tests.gateway import golden
from tests.gateway.leaving import ASK
from tests.gateway.processes import Gateway, Site
from tests.scripted import ScriptedUpstream, json_answer

PAGE = 4096  # what is left of a file's last page is room still


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 16 MiB."""
    place = tmp_path / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "none", place], check=True)
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)


def fill(place: Path) -> Path:
    """A file that takes all that is left."""
    filler = place / "filler"
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while file.write(b"\0" * PAGE):
            pass
    assert shutil.disk_usage(place).free == 0
    return filler


async def ask(http: httpx.AsyncClient) -> httpx.Response:
    began = time.monotonic()
    answer = await http.post("/chat/completions", json=ASK)
    assert time.monotonic() - began < 2
    return answer


@pytest.mark.mount
async def test_r32_a_full_disk_refuses_before_anything_is_sent_and_serves_again_with_space(
    small_disk: Path, scripted: ScriptedUpstream
) -> None:
    scripted.default = json_answer(golden.COMPLETION)
    async with (
        Site(small_disk, scripted.port) as site,
        Gateway(site, "one") as gateway,
        gateway.http(timeout=30) as http,
    ):
        assert (await ask(http)).status_code == 200
        filler = fill(small_disk)
        for _ in range(2 * PAGE // 200):  # the shortest line has more than 200 bytes
            answer = await ask(http)
            if answer.status_code != 200:
                break
        sent = len(scripted.requests)
        for _ in range(20):
            answer = await ask(http)
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "ledger_unavailable")
            assert answer.headers["retry-after"] == "5"
        assert len(scripted.requests) == sent
        assert await gateway.status("/healthz") == 200

        filler.unlink()
        back = time.monotonic()
        while (await ask(http)).status_code != 200:
            assert time.monotonic() - back < 5
        assert (await ask(http)).status_code == 200

        rows = await site.rows(len(scripted.requests))
        assert len([row for row in rows if row["sent"]]) == len(scripted.requests) == len({row["id"] for row in rows})
        assert {row["outcome"] for row in rows} == {"ok"}
        with closing(sqlite3.connect(small_disk / "gateway.sqlite3")) as database:
            assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
