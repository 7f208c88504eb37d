"""Wall time of a sweep beyond the measured work: the fork server against a fresh interpreter a case, in one run."""

import time
from statistics import median

import pytest

from bench import estimate, sweep
from bench.case import Axes, grid
from bench.isolate import ForkServer
from bench.rule import Rule

MODELS = ("tiny-koala-700m", "tiny-koala-1b", "tiny-sdxl", "tiny-bk-sdm-base", "tiny-sdm-v2.0")
AXES = Axes(MODELS, ("unet", "pipeline"), (64, 96, 128), (1, 2), ("fp32",), (2,), "cpu")
RULE = Rule(warmup=1, repeats=2, budget_s=0.0)
WANTED_S = 0.5


class Silent:
    def begin(self, job): ...

    def message(self, message): ...

    def end(self, row): ...


def work_s(row):
    """Seconds of a row that measuring itself took: loading, warming up, sampling."""
    return row["load_s"] + sum(row["warmup_s"]) + sum(row["samples_s"]["total"])


def overhead(cases, path, fork):
    """Seconds per case beyond the work, of the whole sweep with its server and counting; and the median of rows."""
    start = time.perf_counter()
    server = ForkServer(fork)
    plan = sweep.Plan(RULE, 120.0, estimate.count_costs(server, cases))
    rows = sweep.run(sweep.jobs_of(cases, 1), plan, path, server, Silent())
    wall = time.perf_counter() - start
    assert [row["status"] for row in rows] == ["ok"] * len(cases)
    each = [row["wall_s"] - work_s(row) for row in rows]
    return (wall - sum(map(work_s, rows))) / len(cases), median(each)


@pytest.mark.timeout(3600)
def test_a_case_from_the_fork_server_costs_half_a_second_beyond_its_work(benchmark, tmp_path, capsys):
    cases = grid(AXES)
    assert len(cases) == 60
    found = {}

    def both():
        found["fork server"] = overhead(cases, tmp_path / "fork.jsonl", fork=True)
        found["fresh interpreter"] = overhead(cases, tmp_path / "spawn.jsonl", fork=False)

    benchmark.pedantic(both, rounds=1)
    benchmark.extra_info |= {name: {"per_case_s": a, "median_row_s": b} for name, (a, b) in found.items()}
    with capsys.disabled():
        print(f"\n{len(cases)} cases of small models, seconds beyond loading, warming up and sampling:")
        for name, (per_case, row) in found.items():
            print(f"  {name:<18} {per_case:6.3f} a case (server and counting included), {row:6.3f} the median row")
        ratio = found["fresh interpreter"][0] / found["fork server"][0]
        print(f"at most {WANTED_S} wanted of the fork server; a fresh interpreter costs {ratio:.1f} times as much")
    assert found["fork server"][0] <= WANTED_S
