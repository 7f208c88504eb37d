"""Spans of a call, and the gaps between them."""

from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.instruments.clock import CpuClock
from bench.instruments.phases import Phases


def ticking():
    """Phases on a clock that reads one second more at each look."""
    ticks = count()
    return Phases(CpuClock(now=lambda: float(next(ticks))))


def names(phases):
    return [span.name for span in phases.spans()]


def test_a_span_may_begin_in_one_place_and_end_in_another():
    apart, nested = ticking(), ticking()
    with apart.span("call"):
        apart.begin("step")
        with apart.span("unet"):
            pass
        apart.end("step")
    with nested.span("call"), nested.span("step"), nested.span("unet"):
        pass
    assert apart.spans() == nested.spans()
    assert names(apart) == ["rest", "scheduler", "unet", "scheduler", "step", "rest", "call"]


def test_a_span_that_an_error_left_open_ends_with_the_one_around_it():
    phases = ticking()
    with pytest.raises(ValueError, match="midway"), phases.span("call"):
        phases.begin("step")
        with phases.span("unet"):
            raise ValueError("midway")
    assert names(phases) == ["rest", "scheduler", "unet", "scheduler", "step", "call"]
    phases.clear()
    assert phases.spans() == []
    with phases.span("call"):
        pass
    assert names(phases) == ["rest", "call"]


def test_only_an_open_span_can_end():
    phases = ticking()
    with pytest.raises(AssertionError, match="no span step is open"):
        phases.end("step")
    with phases.span("call"):
        phases.begin("step")
        phases.end("step")
        with pytest.raises(AssertionError, match="no span step is open"):
            phases.end("step")


@given(st.lists(st.sampled_from(["encode", "step", "decode", "other"]), max_size=8), st.integers(0, 3))
def test_spans_and_gaps_lie_end_to_end_and_leave_a_look_at_the_clock_between_two(kinds, networks):
    phases = ticking()
    with phases.span("call"):
        for kind in kinds:
            phases.begin(kind)
            for _ in range(networks if kind == "step" else 0):
                with phases.span("unet"):
                    pass
            phases.end(kind)
    spans = phases.spans()
    outer = sorted(
        (s for s in spans if s.name in {"encode", "step", "decode", "other", "rest"}), key=lambda s: s.start_s
    )
    assert [s.name for s in outer] == ["rest", *(name for kind in kinds for name in (kind, "rest"))]
    ends = [0.0, *(s.start_s + s.seconds for s in outer)]
    assert [s.start_s - end for s, end in zip(outer, ends[:-1], strict=True)] == [1.0] * len(outer)
    (call,) = [s for s in spans if s.name == "call"]
    assert call.seconds == ends[-1] + 1.0
    assert phases.marks_taken == 2 * len(spans)
