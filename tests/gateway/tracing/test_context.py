"""The header of https://www.w3.org/TR/trace-context/: what is taken for one, and what is told."""

import pytest

from gateway.tracing.context import begin

GOOD = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.mark.parametrize(("value", "sampled"), [(GOOD, True), (GOOD[:-2] + "00", False), (f"cc{GOOD[2:]}-more", True)])
def test_a_callers_trace_is_taken(value: str, sampled: bool) -> None:
    trace = begin(lambda _: value.encode(), ["take", "send"], 1.0)
    assert (trace.id, trace.parent, trace.sampled) == (GOOD[3:35], GOOD[36:52], sampled)
    assert trace.told("00f067aa0ba902b7") == [("traceparent", f"00-{GOOD[3:35]}-00f067aa0ba902b7-{sampled:02x}")]
    assert trace.told("") == []


@pytest.mark.parametrize(
    "value",
    ["", "00", "ff" + GOOD[2:], GOOD.upper(), GOOD + "-", GOOD.replace("0af7651916cd43dd8448eb211c80319c", "0" * 32),
     GOOD.replace("b7ad6b7169203331", "0" * 16), GOOD[:-1], f"{GOOD}, {GOOD}", "é" * 55],
)  # fmt: skip
def test_what_is_no_traceparent_begins_a_trace_of_our_own(value: str) -> None:
    trace = begin(lambda _: value.encode("latin-1"), ["take"], 1.0)
    assert trace.parent == ""
    assert len(trace.id) == 32
    assert trace.id != "0af7651916cd43dd8448eb211c80319c"


def test_a_share_of_the_traces_is_sampled() -> None:
    assert [begin(lambda _: b"", [], ratio).sampled for ratio in (0.0, 1.0)] == [False, True]
    assert 300 < sum(begin(lambda _: b"", [], 0.5).sampled for _ in range(1000)) < 700
