"""Whether bf16 weights make a network faster on this device, and what they do to its scores.

They are several times faster on CPUs with avx512_bf16 and GPUs, and slower on others; a name says too little of a
processor, so one block of the very network is timed. Nothing changes unless the user asks for `auto` or bf16.
"""

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass, replace
from functools import cache
from statistics import median
from time import perf_counter
from typing import Protocol, runtime_checkable

import torch

from eval import extractors
from eval.feed import Feed
from eval.metric import ImageMetric
from eval.networks import DTYPES, Networks
from koala.types import FloatImages, Scores

BATCH, WARM_UP, REPEATS = 8, 2, 3
WORTHWHILE = 1.2  # how much faster bf16 has to be: its scores differ a little


@runtime_checkable
class Probed(Protocol):
    """An extractor of which a part can be timed without weights."""

    def probe(self, device: torch.device, dtype: torch.dtype, batch: int) -> Callable[[], torch.Tensor] | None:
        """A forward of one of the network's equal blocks; None where it has none."""
        ...


@dataclass(frozen=True)
class Difference:
    """How far the scores of `n` images in another dtype are from those in fp32."""

    n: int
    mean: float  # signed: what it does to the mean of a set
    largest: float  # of one image


def choose_dtype(feed: Feed, device: torch.device, clock: Callable[[], float] = perf_counter) -> str:
    """ "bf16" where a block of the feed's network is at least 1.2 times faster with such weights, else "fp32"."""
    return _faster_dtype(feed.extractor, device, clock)


@cache
def _faster_dtype(name: str, device: torch.device, clock: Callable[[], float]) -> str:
    extractor = extractors.load(name)
    if not isinstance(extractor, Probed):
        return "fp32"
    probes = {dtype: extractor.probe(device, DTYPES[dtype], BATCH) for dtype in ("fp32", "bf16")}
    seconds_s = {dtype: _time(probe, device, clock) for dtype, probe in probes.items() if probe}
    return "bf16" if seconds_s and seconds_s["fp32"] >= WORTHWHILE * seconds_s["bf16"] else "fp32"


def score_difference(
    metric: ImageMetric, prepared: FloatImages, prompts: Sequence[str], networks: Networks, dtype: str = "bf16"
) -> Difference:
    """What `dtype` changes in the metric's scores of a sample of images, prepared as its feed wants them.

    Both networks are in memory then, and stay there.
    """
    change = _scores(metric, prepared, prompts, networks, dtype) - _scores(metric, prepared, prompts, networks, "fp32")
    return Difference(len(change), change.mean().item(), change.abs().max().item())


def _scores(
    metric: ImageMetric, prepared: FloatImages, prompts: Sequence[str], networks: Networks, dtype: str
) -> Scores:
    assert metric.feed is not None
    other = copy(metric)
    other.feed = replace(metric.feed, dtype=dtype)
    other.load(networks)
    return other.score(networks.features(other.feed, prepared), prompts).double().cpu()


@torch.inference_mode()
def _time(forward: Callable[[], object], device: torch.device, clock: Callable[[], float]) -> float:
    """Median seconds of a forward; the first ones, which choose kernels and pack weights, are not counted."""
    seconds_s = []
    for _ in range(WARM_UP + REPEATS):
        start = clock()
        forward()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds_s.append(clock() - start)
    return median(seconds_s[WARM_UP:])
