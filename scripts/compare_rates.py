"""How often `python -m bench compare` is wrong: python scripts/compare_rates.py [--draws 10000].

From noise that was recorded in fresh processes (tests/bench/recorded_noise.csv) and from made noise, processes are
drawn for A and for B, and the verdict is that of compare's interval (koala/harness/nested.py). Two rates, with their
95% intervals (Wilson, 1927):

- A against A is called faster or slower: at most 5% of the time;
- B takes 1.05 times as long and is called slower: at least 95% of the time, once as many processes are measured as
  `compare` asks for. It begins with 3 processes a side; as long as more are asked for than there are, that many are
  measured, and what was measured before is kept, as `sweep` does.

No process is drawn twice while there are others; where more are asked for than were recorded, the rest is drawn with
replacement. What this cannot show: a machine whose state changes between A and B.
"""

import argparse
import csv
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from math import log, sqrt
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from koala.harness.nested import (
    RESAMPLES,
    TAIL,
    Ratio,
    Side,
    few_errors,
    pairs,
    processes_needed,
    rank_cut,
    rank_interval,
    resamples,
    side_of,
    student_quantiles,
)

RECORDED = Path(__file__).parents[1] / "tests/bench/recorded_noise.csv"
SAMPLES = 6  # the fewest that a sweep takes of a quick call
PILOT = 3
FIXED = (2, 3, 5, 9, 20)  # processes a side; the rest of the table is as asked
CHANGE = 0.05
MOST = 1500  # processes a side
_Z = 1.959964


@dataclass(frozen=True)
class Rates:
    """Of so many draws, how many A against A were called different, and how many slowdowns slower; processes a side."""

    draws: int
    different: int
    slower: int
    processes: Int64[np.ndarray, "draws"]  # noqa: F821


def recorded(samples: int = SAMPLES, path: Path = RECORDED) -> dict[str, Side]:
    """The recorded cases by name, of each process its first `samples` samples."""
    cases: dict[str, list[list[float]]] = {}
    with path.open(newline="") as file:
        for line in csv.reader(row for row in file if not row.startswith("#")):
            cases.setdefault(f"recorded {line[0]} {line[1]}", []).append([float(s) for s in line[3 : 3 + samples]])
    return {name: side_of(processes) for name, processes in cases.items()}


def made(samples: int = SAMPLES, processes: int = 4000, seed: int = 0) -> dict[str, Side]:
    """Noise of known kinds, between processes and inside them."""
    random = np.random.default_rng(seed)
    between, inside = (processes, 1), (processes, samples)

    def normal(share: float, size: tuple[int, int]) -> np.ndarray:
        return 1 + share * random.normal(size=size).clip(-5, 5)

    kinds = {
        "normal, 0.3% between, 1% inside": normal(0.003, between) * normal(0.01, inside),
        "normal, 4% between, 1% inside": normal(0.04, between) * normal(0.01, inside),
        "normal, 0% between, 5% inside": normal(0.05, inside),
        "lognormal, 3% between, 8% inside": np.exp(0.03 * random.normal(size=between))
        * np.exp(0.08 * random.normal(size=inside)),
        "1 in 10 processes 3 times slower, 2% between, 2% inside": (1 + 2 * (random.random(between) < 0.1))
        * normal(0.02, between)
        * normal(0.02, inside),
    }
    return {name: side_of(times.tolist()) for name, times in kinds.items()}


def sequence(size: int, length: int, random: np.random.Generator) -> Int64[np.ndarray, "length"]:  # noqa: F821
    """Indices of processes in the order in which they are measured, A and B in turn: each once before any is again."""
    first = random.permutation(size)[:length]
    return np.concatenate([first, random.integers(size, size=length - len(first))])


def fixed(noise: Side, each: int, draws: int, seed: int = 0) -> Rates:
    """The rates with `each` processes a side."""
    random = np.random.default_rng([seed, each])
    return _verdicts(noise, [sequence(len(noise), 2 * each, random) for _ in range(draws)])


def as_asked(noise: Side, draws: int, seed: int = 0) -> Rates:
    """The rates with as many processes a side as are asked for in the end, beginning with the pilot."""
    random = np.random.default_rng([seed, 0])
    return _verdicts(noise, [_enough(noise, sequence(len(noise), 2 * MOST, random)) for _ in range(draws)])


def _enough(noise: Side, order: Int64[np.ndarray, "n"]) -> Int64[np.ndarray, "k"]:  # noqa: F821
    """The part of `order` after which no more processes are asked for."""
    each, asked = 0, PILOT
    while asked > each:
        each = min(asked, MOST)
        a, b = sides(noise, order[: 2 * each])
        asked = min(processes_needed(Ratio(1.0, None, _reach(a, b), (each, each)), CHANGE), MOST)
    return order[: 2 * each]


def sides(noise: Side, order: Int64[np.ndarray, "k"]) -> tuple[Side, Side]:  # noqa: F821
    """A and B, which take their processes in turn."""
    a, b = (Side(noise.logs[part], noise.resampled[part]) for part in (order[::2], order[1::2]))
    return a, b


def _reach(a: Side, b: Side) -> float:
    """As in `ratio_of_runs`."""
    if rank_cut(len(a), len(b)):
        middle = float(np.median(pairs(a.logs, b.logs)))
        low, high = rank_interval(a.logs, b.logs)
        return max(high - middle, middle - low)
    errors, degrees = few_errors(*((s.resampled.mean(axis=1)[None], s.resampled.var(axis=1)[None]) for s in (a, b)))
    return float(errors[0] * np.interp(degrees[0], *_students()))


@cache
def _students() -> tuple[np.ndarray, np.ndarray]:
    """Student's quantiles at the degrees of freedom that 2 and 3 processes a side can have, near enough to read off."""
    degrees = np.linspace(1, 4, 3001)
    return degrees, student_quantiles(1 - TAIL, degrees)


def _verdicts(noise: Side, orders: Sequence[np.ndarray]) -> Rates:
    """The verdicts of draws, of A against A and of A against what takes 1.05 times as long."""
    different = slower = 0
    for a, b in (sides(noise, order) for order in orders):
        different += verdict(a, b) != 0
        slower += verdict(a, b, log(1 + CHANGE)) > 0
    return Rates(len(orders), different, slower, np.array([len(order) // 2 for order in orders]))


def verdict(a: Side, b: Side, shift: float = 0.0) -> int:
    """1 for slower, -1 for faster, 0 for no difference, of b times exp(shift): on which side of 1 the interval lies.

    It counts ratios above and below 1 where `ratio_of_runs` sorts them; equal ones speak for no difference.
    """
    cut = rank_cut(len(a), len(b))
    ratios = pairs(a.logs, b.logs) + shift
    if not cut:
        middle, reach = float(np.median(ratios)), _reach(a, b)
        return int(middle - reach > 0) - int(middle + reach < 0)
    sign = int((ratios <= 0).sum() < cut) - int((ratios >= 0).sum() < cut)
    return sign if sign and _agrees(a, b, shift, sign) else 0


def _agrees(a: Side, b: Side, shift: float, sign: int) -> bool:
    """Whether all but 2% of the bootstrap's ratios lie on that side of 1 too."""
    first, second = resamples(a, b)
    second, most, others = second + shift, len(a) * len(b) / 2, 0
    for start in range(0, RESAMPLES, 50):
        part = slice(start, start + 50)
        difference = second[part, None, :] > first[part, :, None]
        above = difference.sum(axis=(1, 2))
        others += int(((above <= most) if sign > 0 else (above >= most)).sum())
    return others <= int(TAIL * RESAMPLES)


def wilson(hits: int, draws: int) -> tuple[float, float, float]:
    """A rate and its 95% interval (Wilson, 1927)."""
    rate, weight = hits / draws, _Z**2 / draws
    middle, reach = rate + weight / 2, _Z * sqrt(rate * (1 - rate) / draws + weight / draws / 4)
    return rate, (middle - reach) / (1 + weight), (middle + reach) / (1 + weight)


def line(name: str, processes: str, rates: Rates) -> str:
    """A line of the table."""
    cells = [
        "{:.2f} [{:.2f}, {:.2f}]".format(*(100 * share for share in wilson(hits, rates.draws)))
        for hits in (rates.different, rates.slower)
    ]
    return f"| {name} | {processes} | {cells[0]} | {cells[1]} |"


def main() -> None:
    """Print both rates of each kind of noise."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=10_000)
    parser.add_argument("--samples", type=int, default=SAMPLES, help="of each process, from its first on")
    options = parser.parse_args()
    print(f"{options.draws} draws, {options.samples} samples a process; rates with their 95% intervals, in percent\n")
    print("| noise | processes a side | A/A called different | slowdown by 5% found |")
    print("|:--|:--|:--|:--|")
    for name, noise in (recorded(options.samples) | made(options.samples)).items():
        for each in FIXED:
            print(line(name, str(each), fixed(noise, each, options.draws)), flush=True)
        rates = as_asked(noise, options.draws)
        low, middle, high = (int(q) for q in np.quantile(rates.processes, [0.05, 0.5, 0.95]))
        print(line(name, f"as asked: {middle} (90% of draws: {low} to {high})", rates), flush=True)


if __name__ == "__main__":
    main()
