"""Collecting features against not collecting them: training steps of one small U-Net, interleaved in one run.

The loss on what is collected is no part of it. A control compares steps without taps with each other.
"""

from statistics import median
from time import perf_counter, process_time

import pytest
import torch

from koala.distill.taps import Taps
from koala.harness.stats import Interval, median_interval
from koala.models import zoo
from koala.models.anatomy import stages
from koala.models.cost import unet_inputs
from koala.models.load import load

MODEL, SIDE, BATCH = "tiny-koala-1b", 32, 2  # of the latents
PAIRS = 150
GPU = pytest.param("cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")])


class Steps:
    """Seconds of a training step of a small U-Net, with the self-attention of every layer collected or not."""

    def __init__(self, device: str) -> None:
        torch.manual_seed(0)
        spec = zoo.get(MODEL)
        self.unet = load(spec, device, parts=("unet",)).unet.train().requires_grad_()
        self.optimizer = torch.optim.AdamW(self.unet.parameters(), lr=1e-5)
        self.inputs = unet_inputs(spec, SIDE * spec.downscale, BATCH, torch.float32, torch.device(device))
        self.names = [path for stage in stages(spec.unet) for path in stage.modules("SA")]
        self.seen = 0
        # on a CPU that of one thread, which is not charged for what else the machine does
        self._clock = process_time if device == "cpu" else perf_counter

    def plain(self) -> float:
        return self._timed(lambda: self.unet(**self.inputs).sample)

    def collecting(self) -> float:
        with Taps(self.unet, self.names, self._drop) as taps:

            def forward() -> torch.Tensor:
                with taps.collecting():
                    return self.unet(**self.inputs).sample

            return self._timed(forward)

    def _drop(self, name: str, feature: torch.Tensor) -> None:
        self.seen += 1

    def _timed(self, forward) -> float:
        self._wait()
        start = self._clock()
        self.optimizer.zero_grad()
        forward().square().mean().backward()
        self.optimizer.step()
        self._wait()
        return self._clock() - start

    def _wait(self) -> None:
        if self.inputs["sample"].is_cuda:
            torch.cuda.synchronize()


def interleaved(benchmark, steps: Steps) -> dict[str, list[float]]:
    """Seconds of three kinds of steps, each once in every round and in turn the first."""
    kinds = {"plain": steps.plain, "control": steps.plain, "collecting": steps.collecting}
    seconds: dict[str, list[float]] = {kind: [] for kind in kinds}

    def one_round() -> None:
        turn = len(seconds["plain"]) % len(kinds)
        for kind in [*kinds][turn:] + [*kinds][:turn]:
            seconds[kind].append(kinds[kind]())

    for kind in kinds.values():
        kind()  # warm up
    benchmark.pedantic(one_round, rounds=PAIRS)
    return seconds


def against_plain(seconds: dict[str, list[float]], kind: str) -> tuple[float, Interval]:
    """Median of the ratios of steps that were run side by side, and its 95% interval."""
    ratios = [ours / plain for ours, plain in zip(seconds[kind], seconds["plain"], strict=True)]
    interval = median_interval(ratios)
    assert interval is not None
    return median(ratios), interval


@pytest.mark.fullsize
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("device", ["cpu", GPU])
def test_collecting_the_features_of_a_step_costs_at_most_three_percent(benchmark, device, capsys):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # on a CPU, waiting for other threads is most of the noise
    try:
        steps = Steps(device)
        seconds = interleaved(benchmark, steps)
    finally:
        torch.set_num_threads(threads)
    assert steps.seen == (PAIRS + 1) * len(steps.names)
    ratios = {kind: against_plain(seconds, kind) for kind in ("control", "collecting")}
    benchmark.extra_info |= {**seconds, "threads": 1, "features": len(steps.names)}
    with capsys.disabled():
        plain_s = median(seconds["plain"])
        print(f"\n{MODEL} on {device}: {len(steps.names)} features, {plain_s:.4g} s a step, {PAIRS} pairs")
        for kind, (ratio, interval) in ratios.items():
            print(f"  {kind:10} {ratio:.4f} [{interval.low:.4f}, {interval.high:.4f}] of a step without taps")
        print("  wanted: the control's ratio within 1% of 1, the upper end of collecting's interval at most 1.03")
    assert abs(ratios["control"][0] - 1) <= 0.01, "the machine is too noisy to tell"
    assert ratios["collecting"][1].high <= 1.03
