"""What timing the parts of a call costs: marks taken x the measured cost of one, against a small model's step."""

from statistics import median

import pytest
import torch

from bench.case import Case
from bench.instruments.clock import clock_for, current_device
from bench.instruments.phases import CALL, STEP, Phases
from bench.workloads import build_workload
from koala.models import zoo

STEPS = 8
GPU = pytest.param("cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")])


def seconds_of_a_mark(clock, device):
    """Host seconds of one mark with the bookkeeping of its span: what a call waits for it."""
    phases, spans = Phases(clock), 2000

    def nothing_but_marks():
        with phases.span(CALL):
            for _ in range(spans):
                with phases.span(STEP):
                    pass

    cost = []
    for _ in range(5):
        phases.clear()
        cost.append(clock.time(nothing_but_marks)["total"] / phases.marks_taken)
    return median(cost)


@pytest.mark.parametrize("device", ["cpu", GPU])
def test_the_stage_timers_cost_less_than_a_hundredth_of_a_small_models_step(benchmark, device, capsys):
    clock = clock_for(current_device(device))
    case = Case("tiny-koala-700m", "pipeline", 128, 1, "fp32", STEPS, device)
    workload, _ = build_workload(zoo.get(case.model), case, Phases(clock))
    steps, marks = [], []

    def image():
        workload.prepare()
        workload.phases.clear()
        clock.time(workload.run)
        steps.extend(span.seconds for span in workload.phases.spans() if span.name == STEP)
        marks.append(workload.phases.marks_taken)

    benchmark.pedantic(image, rounds=6, warmup_rounds=1)
    one, step = seconds_of_a_mark(clock, device), median(steps)
    share = marks[-1] / STEPS * one / step
    with capsys.disabled():
        print(f"\n{case.label} on {device}: {marks[-1]} marks a call of {STEPS} steps, {one * 1e6:.2f} us each,")
        print(f"a step takes {step * 1e3:.2f} ms: the timers are {share:.3%} of it; at most 1% wanted")
    assert share <= 0.01
