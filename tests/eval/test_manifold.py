"""Precision, recall, density, coverage and the Inception Score against their definitions and torch-fidelity."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.maths import manifold
from eval.maths.inception_score import inception_score
from koala.errors import KoalaError

SEEDS = st.integers(0, 2**31)


def rows(n, d, seed, shift=0.0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed)) + shift


def by_definition(real, fake, k):
    """Kynkaanniemi et al. (2019), equation 1, and Naeem et al. (2020), section 3, from all distances at once."""

    def distances(a, b):
        return (a.double()[:, None] - b.double()).norm(dim=-1)

    radius = distances(real, real).sort(dim=1).values[:, k]
    fake_radius = distances(fake, fake).sort(dim=1).values[:, k]
    inside = distances(fake, real) < radius
    return {
        "precision": (distances(fake, real) <= radius).any(dim=1).double().mean().item(),
        "recall": (distances(real, fake) <= fake_radius).any(dim=1).double().mean().item(),
        "density": inside.sum().item() / (k * len(fake)),
        "coverage": inside.any(dim=0).double().mean().item(),
    }


@settings(deadline=None, max_examples=25)
@given(st.integers(7, 40), st.integers(7, 40), st.integers(1, 6), SEEDS)
def test_all_four_equal_their_definitions(n, m, k, seed):
    real, fake = rows(n, 3, seed), rows(m, 3, seed + 1, 0.7)
    assert {name: getattr(manifold, name)(real, fake, k) for name in manifold_names()} == pytest.approx(
        by_definition(real, fake, k), abs=1e-12
    )


def manifold_names():
    return ("precision", "recall", "density", "coverage")


@pytest.mark.parametrize("block", [4, 9, 100])
def test_blocks_change_nothing(monkeypatch, block):
    real, fake = rows(30, 4, 0), rows(41, 4, 1, 0.5)
    whole = [getattr(manifold, name)(real, fake) for name in manifold_names()]
    monkeypatch.setattr(manifold, "BLOCK", block)
    assert [getattr(manifold, name)(real, fake) for name in manifold_names()] == whole


@pytest.mark.parametrize("save_cpu_ram", [False, True])
@pytest.mark.parametrize(("n", "m", "d"), [(400, 300, 64), (200, 500, 8)])
def test_precision_and_recall_are_torch_fidelitys(n, m, d, save_cpu_ram):
    theirs = pytest.importorskip("torch_fidelity.metric_prc")
    fake, real = rows(n, d, 0), rows(m, d, 1, 0.2)
    out = theirs.prc_features_to_metric(
        fake, real, prc_neighborhood=3, prc_batch_size=150, save_cpu_ram=save_cpu_ram, verbose=False
    )
    ours = torch.tensor([manifold.precision(real, fake), manifold.recall(real, fake)])  # theirs are float32
    assert ours.tolist() == [out["precision"], out["recall"]]


def test_a_copy_of_the_reference_is_inside_however_often_images_repeat():
    real = rows(3, 4, 0, 100.0).repeat(5, 1)  # every ball has radius 0, far from the origin
    assert [getattr(manifold, name)(real, real.clone(), 3) for name in manifold_names()[:2]] == [1, 1]
    # As in prdc 0.2, where nothing is nearer than 0.
    assert [getattr(manifold, name)(real, real.clone(), 3) for name in manifold_names()[2:]] == [0, 0]


def test_a_copy_of_a_reference_without_repetitions_has_density_and_coverage_one():
    real = rows(60, 8, 0)
    assert [getattr(manifold, name)(real, real.clone(), 5) for name in manifold_names()[2:]] == [1, 1]


def prdc(real, fake, k):
    """The authors' package (prdc 0.2, prdc.py): open balls around real images, to the k-th neighbour."""
    real, fake = real.double().numpy(), fake.double().numpy()
    own = np.linalg.norm(real[:, None] - real, axis=-1)
    radii = np.take_along_axis(own, np.argpartition(own, k + 1, axis=-1)[:, : k + 1], axis=-1).max(axis=-1)
    apart = np.linalg.norm(real[:, None] - fake, axis=-1)
    return (apart < radii[:, None]).sum(axis=0).mean() / k, (apart.min(axis=1) < radii).mean()


@settings(deadline=None, max_examples=25)
@given(st.integers(8, 30), st.integers(8, 30), st.integers(0, 8), st.integers(1, 5), SEEDS)
def test_density_and_coverage_are_prdcs_copies_included(n, m, copies, k, seed):
    real = rows(n, 3, seed)
    fake = torch.cat([rows(m, 3, seed + 1, 0.7), real[:copies]])
    assert (manifold.density(real, fake, k), manifold.coverage(real, fake, k)) == pytest.approx(prdc(real, fake, k))


def test_a_common_offset_of_all_features_changes_nothing():
    real, fake = rows(40, 4, 0).mul(2).round(), rows(50, 4, 1, 0.5).mul(2).round()  # whole numbers: fp32 is exact
    for name in manifold_names():
        assert getattr(manifold, name)(real + 2**22, fake + 2**22) == getattr(manifold, name)(real, fake)


def test_a_collapsed_generator_has_precision_without_recall():
    real = rows(200, 4, 0)
    fake = real[:1].repeat(50, 1)
    assert manifold.precision(real, fake) == 1 and manifold.recall(real, fake) <= 1 / 200


def test_equal_distributions_have_density_and_coverage_near_one():
    real, fake = rows(500, 4, 0), rows(500, 4, 1)
    assert manifold.density(real, fake) == pytest.approx(1, abs=0.1)
    assert manifold.coverage(real, fake) == pytest.approx(1 - 1 / 2**5, abs=0.04)  # Naeem et al., appendix: n = m


def test_too_few_images_and_broken_features_are_refused():
    with pytest.raises(KoalaError, match="more than 3 images"):
        manifold.precision(rows(3, 4, 0), rows(30, 4, 1))
    broken = rows(30, 4, 0)
    broken[1] = float("nan")
    with pytest.raises(KoalaError, match="leave them out"):
        manifold.coverage(broken, rows(30, 4, 1))


def by_salimans(logits, splits, seed):
    p = torch.softmax(logits.double(), 1).numpy()[np.random.RandomState(seed).permutation(len(logits))]
    parts = [p[i * len(p) // splits : (i + 1) * len(p) // splits] for i in range(splits)]
    scores = [np.exp((q * np.log(q / q.mean(0))).sum(1).mean()) for q in parts]
    return np.mean(scores), np.std(scores)


@settings(deadline=None, max_examples=25)
@given(st.integers(10, 60), st.integers(1, 10), SEEDS)
def test_the_inception_score_is_its_definition_in_torch_fidelitys_order(n, splits, seed):
    logits = 4 * rows(n, 12, seed)
    assert inception_score(logits, splits) == pytest.approx(by_salimans(logits, splits, 2020), rel=1e-10, abs=1e-12)


def test_the_inception_score_is_torch_fidelitys_own():
    theirs = pytest.importorskip("torch_fidelity.metric_isc")
    logits = 4 * rows(257, 100, 0)
    assert inception_score(logits) == pytest.approx(tuple(theirs.isc_features_to_metric(logits).values()), rel=1e-12)


def test_the_inception_score_runs_from_one_to_the_number_of_classes():
    sure = 1e4 * torch.eye(10).repeat(10, 1)
    assert inception_score(sure, splits=1) == (pytest.approx(10), 0)
    assert inception_score(torch.zeros(20, 10)) == (pytest.approx(1), pytest.approx(0, abs=1e-12))


def test_fewer_images_than_splits_and_broken_logits_are_refused():
    with pytest.raises(KoalaError, match="fewer splits"):
        inception_score(rows(9, 4, 0))
    with pytest.raises(KoalaError, match="leave them out"):
        inception_score(torch.full((20, 4), float("nan")))
