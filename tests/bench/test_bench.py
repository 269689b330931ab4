"""The benchmark runs, and its ledger check is met: as many rows as requests."""

import re
import subprocess
import sys
from decimal import Decimal

import pytest

from bench.run import Figures, Row, added, said
from bench.servers import COST
from bench.upstream import CHUNKS, METERED_STREAM, PLAIN_STREAM
from proxysite.env import BASE_DIR


def quick_run(*options: str) -> str:
    """What it printed; it has ended well."""
    ran = subprocess.run(
        [sys.executable, "-m", "bench", "--quick", *options],
        cwd=BASE_DIR,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "gateways"),
    [
        ([], {"gateway": Decimal(0)}),
        (["--full"], {"all on": COST, "all on, SQL": COST}),
        (["--observed"], {"silent": Decimal(0), "observed": Decimal(0)}),
    ],
)
def test_a_quick_run_fills_every_table_and_ends_well(options: list[str], gateways: dict[str, Decimal]) -> None:
    printed = quick_run(*options)
    for name in (*gateways, "no framework"):
        assert len(re.findall(rf"^  {name}  +\d", printed, re.MULTILINE)) == 4
    line = r"^ledger: (\d+) rows for (\d+) requests sent to (.+), of ([\d.]+) US dollars"
    accounts = re.findall(line, printed, re.MULTILINE)
    assert [name for _, _, name, _ in accounts] == list(gateways)
    for rows, sent, name, cost in accounts:
        assert rows == sent
        assert int(sent) > 100
        assert Decimal(cost) == gateways[name] * int(sent)


@pytest.mark.slow
def test_a_quick_run_of_mended_streams_compares_each_kind_with_plain_ones() -> None:
    printed = quick_run("--mended")
    assert re.search(r"^  plain +\d+\.\d +1\.00x", printed, re.MULTILINE)
    verdicts = re.findall(
        r"^  (.+?)  +[\d.]+ +[\d.]+x \(.+\); target <= 1\.5x: (?:kept|missed)$", printed, re.MULTILINE
    )
    assert verdicts == ["tool calls without index", "usage in every chunk"]
    [account] = re.findall(r"^ledger: (\d+) rows for (\d+) requests", printed, re.MULTILINE)
    assert account[0] == account[1]


def test_the_provider_sends_null_usage_in_each_chunk_only_to_those_who_ask() -> None:
    assert len(PLAIN_STREAM) == len(METERED_STREAM) == CHUNKS
    assert all(piece.count(b'"usage":null') == 1 for piece in METERED_STREAM)
    assert METERED_STREAM[-1].count(b'"completion_tokens":50') == 1
    assert b"usage" not in b"".join(PLAIN_STREAM)
    assert PLAIN_STREAM[-1].endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")


@pytest.mark.parametrize(
    ("name", "ratios", "text"),
    [
        ("gateway", [3.0, 4.0, 3.5], "3.50x (3.00 to 4.00); target <= 4.0x: kept"),
        ("all on, SQL", [4.01, 5.5, 6.0], "5.50x (4.01 to 6.00); target <= 5.0x: missed"),
        ("gateway", [4.01], "4.01x (4.01 to 4.01); target <= 4.0x: missed"),
        ("nginx", [0.1], "0.10x (0.10 to 0.10)"),
    ],
)
def test_the_median_ratio_is_held_against_the_target(name: str, ratios: list[float], text: str) -> None:
    assert said(Row("JSON", 32, None, target=4.0, full=5.0), name, ratios) == text


@pytest.mark.parametrize(("cpu", "text"), [(260.0, "60 us, 0.60x"), (261.0, "61 us, 0.61x")])
def test_what_logs_and_metrics_add_is_held_against_the_baseline(cpu: float, text: str) -> None:
    observed, silent, base = ([Figures(1.0, figure, 1.0, 1.0, 1)] for figure in (cpu, 200.0, 100.0))
    verdict = "kept" if cpu == 260.0 else "missed"
    assert added(observed, silent, base) == f"logs and metrics: {text}; target <= 0.6x: {verdict}"
