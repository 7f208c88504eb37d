"""Our Frechet distance in 2048 dimensions against scipy's square root and torch-fidelity's, interleaved in one run."""

from statistics import median
from time import perf_counter

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from eval.features import FeatureSet
from eval.maths.frechet import frechet_distance, frechet_distance_of_features
from eval.maths.gaussian import Gaussian, gaussian
from eval.maths.intervals import frechet_estimate

DIM = 2048
ROUNDS = 3


def rows(n: int, seed: int) -> torch.Tensor:
    """Rectified rows with the spread of Inception's: correlated, few directions with most of the variance."""
    random = torch.Generator().manual_seed(seed)
    mix = torch.randn(DIM, DIM, generator=torch.Generator().manual_seed(7)) / DIM**0.5
    scale = torch.logspace(0, -1.5, DIM)
    return ((torch.randn(n, DIM, generator=random) * scale) @ mix + 0.05 * seed).clamp(min=0)


def by_scipy(a: Gaussian, b: Gaussian) -> float:
    """The definition, as pytorch-fid and clean-fid compute it."""
    shift, overlap = a.mean - b.mean, np.trace(sqrtm((a.covariance @ b.covariance).numpy()).real)
    return (shift @ shift + a.covariance.trace() + b.covariance.trace()).item() - 2 * overlap


def by_torch_fidelity(a: Gaussian, b: Gaussian) -> float:
    from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_statistics_to_metric

    one, other = ({"mu": s.mean.numpy(), "sigma": s.covariance.numpy()} for s in (a, b))
    return fid_statistics_to_metric(one, other, verbose=False)[KEY_METRIC_FID]


def timed(sides, rounds, benchmark):
    """Median seconds and the last value of each side, run in turn."""
    seconds, values = {name: [] for name in sides}, {}

    def one_round():
        for name, run in sides.items():
            start = perf_counter()
            values[name] = run()
            seconds[name].append(perf_counter() - start)

    benchmark.pedantic(one_round, rounds=rounds, warmup_rounds=1)
    benchmark.extra_info |= seconds
    return {name: median(samples[1:]) for name, samples in seconds.items()}, values


@pytest.mark.timeout(900)
def test_full_rank_is_ten_times_scipys_speed_and_three_times_torch_fidelitys(benchmark, capsys):
    pytest.importorskip("torch_fidelity")
    a, b = gaussian(rows(8192, 0).split(2048)), gaussian(rows(8192, 1).split(2048))
    sides = {
        "ours": lambda: frechet_distance(a, b),
        "scipy": lambda: by_scipy(a, b),
        "torch-fidelity": lambda: by_torch_fidelity(a, b),
    }
    seconds, values = timed(sides, ROUNDS, benchmark)
    ratios = {name: seconds[name] / seconds["ours"] for name in sides}
    with capsys.disabled():
        print("\nfull rank, 2048-d:", *(f"{name} {seconds[name]:.3g} s ({ratios[name]:.1f}x);" for name in sides))
    assert values["ours"] == pytest.approx(values["scipy"], rel=1e-9)
    assert ratios["scipy"] >= 10 and ratios["torch-fidelity"] >= 3


@pytest.mark.timeout(900)
def test_with_512_images_200_distances_cost_seconds(benchmark, capsys):
    pytest.importorskip("torch_fidelity")
    x, y = rows(512, 0), rows(512, 1)
    a, b = gaussian([x]), gaussian([y])
    sides = {
        "ours": lambda: frechet_distance_of_features(x, y),
        "torch-fidelity": lambda: by_torch_fidelity(a, b),
    }
    seconds, values = timed(sides, ROUNDS, benchmark)
    with capsys.disabled():
        print(
            f"\nn = 512, 2048-d: ours {seconds['ours']:.3g} s, 200 of them {200 * seconds['ours']:.3g} s; "
            f"torch-fidelity {seconds['torch-fidelity']:.3g} s ({seconds['torch-fidelity'] / seconds['ours']:.0f}x)"
        )
    assert values["ours"] == pytest.approx(values["torch-fidelity"], rel=1e-5)
    assert seconds["torch-fidelity"] / seconds["ours"] >= 10 and 200 * seconds["ours"] < 60


@pytest.mark.timeout(900)
def test_an_interval_costs_a_few_distances(benchmark, capsys):
    x, y = FeatureSet.of(rows(5000, 0)), FeatureSet.of(rows(5000, 1))
    sides = {"distance": lambda: frechet_distance(x.gaussian, y.gaussian), "interval": lambda: frechet_estimate(x, y)}
    seconds, values = timed(sides, ROUNDS, benchmark)
    with capsys.disabled():
        print(f"\nn = 5000, 2048-d: distance {seconds['distance']:.3g} s, with interval {seconds['interval']:.3g} s")
        print(values["interval"])
    assert values["interval"].value == values["distance"]
    assert seconds["interval"] <= 15 * seconds["distance"]
