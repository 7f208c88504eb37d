"""Compare's two error rates, from noise recorded in fresh processes and from made noise, at a few hundred draws.

scripts/compare_rates.py prints them at 10,000. Seeds are fixed; a bound leaves room for four standard errors.
"""

import runpy
from math import log, sqrt
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from koala.harness.nested import Ratio, ratio_of_runs, side_of

SCRIPT = Path(__file__).parents[2] / "scripts/compare_rates.py"
rates = SimpleNamespace(**runpy.run_path(str(SCRIPT), run_name="compare_rates"))
RECORDED, MADE = rates.recorded(), rates.made(processes=1000)
NOISE = RECORDED | MADE


def at_most(rate, draws):
    return rate + 4 * sqrt(rate * (1 - rate) / draws)


def test_at_least_twenty_processes_of_each_case_were_recorded():
    assert len(RECORDED) == 2
    assert all(len(noise) >= 24 for noise in RECORDED.values())


@pytest.mark.parametrize("each", [2, 3, 5, 12])
@pytest.mark.parametrize("name", NOISE)
def test_a_against_a_is_called_different_at_most_5_percent_of_the_time(name, each):
    draws = 200
    assert rates.fixed(NOISE[name], each, draws).different / draws <= at_most(0.05, draws)


@pytest.mark.parametrize("name", MADE)
def test_made_noise_that_is_5_percent_slower_is_found_with_as_many_processes_as_are_asked_for(name):
    draws = 150
    found = rates.as_asked(MADE[name], draws)
    assert found.slower / draws >= 1 - at_most(0.05, draws)
    assert found.different / draws <= at_most(0.05, draws)


@pytest.mark.parametrize("name", RECORDED)
def test_recorded_noise_that_is_5_percent_slower_is_found_with_as_many_processes_as_are_asked_for(name):
    draws = 60
    found = rates.as_asked(RECORDED[name], draws)
    assert found.slower / draws >= 1 - at_most(0.05, draws)
    assert found.different / draws <= at_most(0.05, draws)


def test_a_machine_that_is_noisier_is_asked_for_more_processes():
    quiet, loud = (rates.as_asked(NOISE[name], 20).processes for name in list(MADE)[:2])
    assert np.median(quiet) < np.median(loud)


@pytest.mark.parametrize("each", [2, 3, 4, 7])
def test_the_scripts_verdict_is_compares(each):
    random = np.random.default_rng(each)
    verdicts = []
    for draw in range(60):
        shift = log(1.05) * (draw % 3)
        luck = np.exp(0.02 * random.normal(size=(2, each, 1)) + 0.01 * random.normal(size=(2, each, 6)))
        a, b = (side.tolist() for side in luck)
        found = ratio_of_runs(a, (luck[1] * np.exp(shift)).tolist())
        expected = int(found.interval.low > 1) - int(found.interval.high < 1)
        assert rates.verdict(side_of(a), side_of(b), shift) == expected
        assert Ratio(1.0, None, rates._reach(side_of(a), side_of(b)), (each, each)).visible == pytest.approx(
            found.visible, rel=1e-4
        )
        verdicts.append(expected)
    assert len(set(verdicts)) > 1


def test_no_process_is_drawn_twice_while_there_are_others():
    random = np.random.default_rng(0)
    assert sorted(rates.sequence(10, 10, random)) == list(range(10))
    longer = rates.sequence(10, 25, random)
    assert sorted(longer[:10]) == list(range(10)) and len(longer) == 25


@pytest.mark.parametrize(("hits", "low", "high"), [(0, 0.0, 0.037), (5, 0.0215, 0.1118), (50, 0.404, 0.596)])
def test_wilsons_interval_is_the_published_one(hits, low, high):
    """Newcombe (1998) and any table: 0, 5 and 50 of 100."""
    assert rates.wilson(hits, 100) == (hits / 100, pytest.approx(low, abs=5e-4), pytest.approx(high, abs=5e-4))
