"""Pages of counters: exact sums over processes, whoever of them dies, and when."""

import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from gateway.metrics import exposition
from gateway.metrics import families as f
from gateway.metrics.pages import ARCHIVE, PAGE_BYTES, STEP, Page, Shelf, parsed, read
from tests.gateway.metrics.scrape import parsed as scraped
from tests.gateway.metrics.scrape import value

spawn = multiprocessing.get_context("spawn")


def count(directory: Path, times: int, ready: Any) -> None:
    page = Page(directory)
    for _ in range(times):
        page.values[page.slot(f.RESPONSES, "200")] += 1
        page.observe(f.OVERHEAD, page.slot(f.OVERHEAD, "chat.completions"), 3000)
    page.values[page.slot(f.OPEN)] = 7
    page.values[page.slot(f.CATALOG_AGE)] = 5_000_000
    ready.set()
    signal.pause()


class Other:
    """A process with a page of its own that has counted `times` times."""

    def __init__(self, directory: Path, times: int) -> None:
        ready = spawn.Event()
        self.process = spawn.Process(target=count, args=(directory, times, ready))
        self.process.start()
        assert ready.wait(30)

    def kill(self) -> None:
        self.process.kill()
        self.process.join()


def answers(shelf: Shelf, own: Page) -> float:
    return value(scraped(exposition.text(shelf.total(own)).decode()), "gateway_http_responses_total", code="200")


def test_the_sum_over_processes_is_exact_and_survives_their_death(tmp_path: Path) -> None:
    own, shelf = Page(tmp_path), Shelf(tmp_path)
    own.values[own.slot(f.RESPONSES, "200")] += 1
    own.values[own.slot(f.OPEN)] = 1
    own.values[own.slot(f.CATALOG_AGE)] = 1_000_000
    one, two = Other(tmp_path, 100), Other(tmp_path, 20)
    try:
        alive = scraped(exposition.text(shelf.total(own)).decode())
        assert value(alive, "gateway_http_responses_total", code="200") == 121
        assert value(alive, "gateway_overhead_seconds_count") == 120
        assert value(alive, "gateway_overhead_seconds_sum") == pytest.approx(0.36)
        assert value(alive, "gateway_overhead_seconds_bucket", le="0.0025") == 0
        assert value(alive, "gateway_overhead_seconds_bucket", le="0.005") == 120
        assert value(alive, "gateway_open_requests") == 15
        assert value(alive, "gateway_catalog_age_seconds") == 5
        assert shelf.adopt() == 0
        one.kill()
        # Dead and not yet adopted: its counters count, what it said of its present does not.
        dead = scraped(exposition.text(shelf.total(own)).decode())
        assert value(dead, "gateway_http_responses_total", code="200") == 121
        assert value(dead, "gateway_open_requests") == 8
        assert shelf.adopt() == 1
        assert shelf.adopt() == 0
        assert answers(shelf, own) == 121
    finally:
        two.kill()
        one.kill()
    assert shelf.adopt() == 1
    assert answers(shelf, own) == 121
    own.close()
    # The next start goes on from there.
    after = Page(tmp_path)
    assert shelf.adopt() == 1
    assert answers(shelf, after) == 121
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".json", ".lock", ".metrics"]
    after.close()


def test_a_page_is_added_once_though_the_adopter_dies_before_it_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, dead, shelf = Page(tmp_path), Page(tmp_path), Shelf(tmp_path)
    dead.values[dead.slot(f.RESPONSES, "200")] += 5
    assert dead.path is not None
    path = dead.path
    dead.close()
    with monkeypatch.context() as dying:
        dying.setattr(Path, "unlink", _killed)
        with pytest.raises(KeyboardInterrupt):
            shelf.adopt()
    assert path.exists()
    assert (tmp_path / ARCHIVE).exists()
    assert answers(shelf, own) == 5
    assert shelf.adopt() == 0
    assert not path.exists()
    assert answers(shelf, own) == 5
    own.close()


def _killed(*args: object, **options: object) -> None:
    raise KeyboardInterrupt


def test_a_page_that_is_adopted_while_it_is_read_counts_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own, dead, shelf = Page(tmp_path), Page(tmp_path), Shelf(tmp_path)
    dead.values[dead.slot(f.RESPONSES, "200")] += 5
    dead.close()
    real = Shelf._archive

    def meanwhile(self: Shelf) -> Any:
        monkeypatch.setattr(Shelf, "_archive", real)
        assert Shelf(tmp_path).adopt() == 1
        return real(self)

    monkeypatch.setattr(Shelf, "_archive", meanwhile)
    assert answers(shelf, own) == 5
    own.close()


def test_a_full_page_loses_what_has_no_room_and_nothing_else(tmp_path: Path) -> None:
    page = Page(tmp_path)
    page.values[page.slot(f.RESPONSES, "200")] += 1
    long = "x" * 200
    for number in range(PAGE_BYTES // 300):
        page.observe(f.OVERHEAD, page.slot(f.OVERHEAD, f"{long}{number}"), 1)
    assert len(page.series()) < PAGE_BYTES // 300
    assert page.series()["gateway_http_responses_total", "200"] == [1]
    page.values[page.slot(f.RESPONSES, "200")] += 1
    assert page.series()["gateway_http_responses_total", "200"] == [2]
    page.close()


def test_without_a_place_on_disk_the_numbers_are_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    page = Page(tmp_path)
    page.values[page.slot(f.RESPONSES, "200")] += 1
    assert page.path is None
    assert not list(tmp_path.glob("*.metrics"))
    assert answers(Shelf(tmp_path), page) == 1
    page.close()


def test_no_mapped_byte_is_touched_that_has_no_room_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = Page(tmp_path)
    monkeypatch.setattr(os, "pwrite", lambda *args: 0)
    for number in range(STEP // 100):
        page.values[page.slot(f.RESPONSES, f"{'x' * 100}{number}")] += 1
    assert page.path is not None
    used = len(page._map[: page._used])
    assert 0.9 * STEP < used <= STEP
    assert page.path.stat().st_blocks * 512 < 2 * STEP
    page.close()


@pytest.mark.parametrize("data", [b"", b"gwmetr00" + bytes(5000), b"gwmetr01" + b"\xff" * 7 + b"\x00" + bytes(600)])
def test_what_is_no_page_has_no_series(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "odd.metrics").write_bytes(data)
    assert list(parsed(data)) == []
    own = Page(tmp_path)
    assert answers(Shelf(tmp_path), own) == 0
    found = read(tmp_path / "odd.metrics")
    assert found is not None
    assert found[1] == {}
    own.close()


def test_series_of_another_version_are_left_out(tmp_path: Path) -> None:
    own = Page(tmp_path)
    old = f.Family("gateway_http_responses_total", "counter", "", ("code", "method"))
    gone = f.Family("gateway_of_yore", "counter", "")
    for family, labels in ((old, ("200", "GET")), (gone, ())):
        own.values[own.slot(family, *labels)] += 1
    assert Shelf(tmp_path).total(own) == {}
    own.close()


@pytest.mark.parametrize(
    ("units", "places", "text"),
    [
        (0, 10, "0"),
        (1, 10, "0.0000000001"),
        (25 * 10**8, 10, "0.25"),
        (3 * 10**10, 10, "3"),
        (-5, 1, "-0.5"),
        (7, 0, "7"),
    ],
)
def test_numbers_are_written_exactly(units: int, places: int, text: str) -> None:
    assert exposition.decimal(units, places) == text


def test_labels_are_escaped() -> None:
    written = exposition.text({("gateway_http_responses_total", 'a"b\\c\nd'): [1]}).decode()
    assert 'gateway_http_responses_total{code="a\\"b\\\\c\\nd"} 1\n' in written
