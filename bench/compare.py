"""Two measurements side by side: which cases belong together, what may not be compared, and a verdict for each.

Pure: rows in, comparisons out. The statistics are `koala/harness/nested.py`'s.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from bench.processes import grouped, merged, process_of
from bench.profiles import get as get_profile
from koala.errors import KoalaError, UnknownName
from koala.harness.nested import Ratio, processes_needed, ratio_of_runs
from koala.harness.records import Records, Row
from koala.sampling.profiles import EAGER

FASTER, SLOWER, SAME = "faster", "slower", "no difference"
PERHAPS_FASTER, PERHAPS_SLOWER = "faster?", "slower?"  # of one process a side: run-to-run variance may be all of it
UNLIKE = "not comparable"
BROKEN, MENDED, NEITHER = "no longer runs", "runs now", "runs in neither"
ONLY_A, ONLY_B = "only in A", "only in B"
APART = (UNLIKE, ONLY_A, ONLY_B)  # what was not compared

_CASE = ("model", "target", "resolution", "batch_size", "dtype", "steps", "profile")  # what is asked
_ENVIRONMENT = ("device_name", "driver", "cuda", "power_limit_w", "cpu", "omp_num_threads", "torch", "diffusers")
_PACKAGES = ("transformers", "torchao")
_ROW = ("threads", "decode_dtype", "measurement")
_HOW = ("weights", "vram_bytes")  # fields of a case that say how it is answered
FIELDS = (*_ENVIRONMENT, *_PACKAGES, *_ROW, *_HOW)


@dataclass(frozen=True)
class Measured:
    """A case as one side measured it: one row of all its processes, and the `FIELDS` that it must share."""

    row: Row
    fields: dict[str, Any]


@dataclass(frozen=True)
class Comparison:
    """A case of two sides and the verdict on it; `differing` fields keep it from being compared.

    `asked` processes a side see the change that was asked for; null where nothing can be said.
    """

    case: str
    a: Row | None
    b: Row | None
    verdict: str
    ratio: Ratio | None = None
    asked: int | None = None
    differing: tuple[str, ...] = ()

    def regressed(self, fail_over: float = 0.0) -> bool:
        """Whether B is worse: it no longer runs, or is slower and its ratio above 1 + `fail_over`.

        Of one process a side the margin stands in for the run-to-run variance that nobody measured: the whole interval
        must lie above it, and without a margin there is no regression.
        """
        if self.verdict == PERHAPS_SLOWER and self.ratio and self.ratio.interval:
            return fail_over > 0 and self.ratio.interval.low > 1 + fail_over
        slower = self.verdict == SLOWER and self.ratio is not None and self.ratio.ratio > 1 + fail_over
        return slower or self.verdict == BROKEN


def compare(a: Records, b: Records, across: Iterable[str] = (), change: float = 0.05) -> list[Comparison]:
    """Every case of two stores, in A's order and then B's; the fields `across` may differ.

    `change` is the slowdown that the number of processes asked for would find.
    """
    ignored = set(across)
    for name in ignored - set(FIELDS):
        raise UnknownName("field", name, FIELDS)
    sides = [_by_case(measurements(side)) for side in (a, b)]
    found = []
    for case in dict.fromkeys([*sides[0], *sides[1]]):
        for ours, theirs in _paired(sides[0].get(case, []), sides[1].get(case, []), ignored):
            found.append(_compared(ours, theirs, ignored, change))
    return found


def measurements(records: Records) -> list[Measured]:
    """What a store holds: of each case, environment and process the latest row, and the processes joined.

    Environments are told apart by `FIELDS`, so that neither commits nor clocks keep processes asunder.
    """

    def fields_of(row: Row) -> dict[str, Any]:
        return compared_fields(row, records.environment(row))

    def key(row: Row) -> str:
        return json.dumps([_case_key(row), fields_of(row)], sort_keys=True)

    latest = records.of_kind("bench").latest(lambda row: (key(row), process_of(row))).values()
    groups = grouped(latest, key)
    return [Measured(merged(group), fields_of(group[0])) for group in groups]


def compared_fields(row: Row, environment: Row) -> dict[str, Any]:
    """The fields that two measurements must share; a package counts where the case makes use of it."""
    case = row["case"]
    used = ("transformers", *_profile_packages(case.get("profile", EAGER.name)))
    return {
        **{name: environment.get(name) for name in _ENVIRONMENT},
        **{name: environment.get(name) if name in used else None for name in _PACKAGES},
        **{name: row.get(name) for name in _ROW},
        **{name: case.get(name) for name in _HOW},
    }


def _profile_packages(profile: str) -> Sequence[str]:
    try:
        return tuple(get_profile(profile).packages)
    except KoalaError:  # a row of another version of this project
        return ()


def _case_key(row: Row) -> str:
    """The question that a row answers; cuda:0 and cuda:1 are told apart by their names alone."""
    case = row["case"]
    asked = {name: case.get(name) for name in _CASE}
    device = str(case.get("device", "")).partition(":")[0]
    return json.dumps([asked, device, case.get("pipeline") is not None], sort_keys=True)


def _by_case(measured: Iterable[Measured]) -> dict[str, list[Measured]]:
    found = defaultdict(list)
    for one in measured:
        found[_case_key(one.row)].append(one)
    return found


def _paired(
    a: Sequence[Measured], b: Sequence[Measured], ignored: set[str]
) -> list[tuple[Measured | None, Measured | None]]:
    """Each of `a` with the one of `b` that is most like it, the newest first; what is left over stands alone."""

    def unlikeness(pair: tuple[int, int]) -> tuple[int, int, int, int]:
        i, j = pair
        fields = differing(a[i], b[j])
        return len(set(fields) - ignored), len(fields), -i, -j

    left, right, found = dict(enumerate(a)), dict(enumerate(b)), []
    for i, j in sorted(((i, j) for i in left for j in right), key=unlikeness):
        if i in left and j in right:
            found.append((i, left.pop(i), right.pop(j)))
    whole: list[tuple[int, Measured | None, Measured | None]] = [*found, *((i, one, None) for i, one in left.items())]
    in_order = [(ours, theirs) for _, ours, theirs in sorted(whole, key=lambda entry: entry[0])]
    return [*in_order, *((None, one) for one in right.values())]


def differing(a: Measured, b: Measured) -> tuple[str, ...]:
    """The names of `FIELDS` in which two measurements differ."""
    return tuple(name for name in FIELDS if a.fields[name] != b.fields[name])


def _compared(a: Measured | None, b: Measured | None, ignored: set[str], change: float) -> Comparison:
    if a is None or b is None:
        alone = a or b
        assert alone
        case = label(alone.row["case"])
        return Comparison(case, None, alone.row, ONLY_B) if a is None else Comparison(case, alone.row, None, ONLY_A)
    case = label(a.row["case"])
    reasons = [f"{n}: {_shown(a.fields[n])} vs {_shown(b.fields[n])}" for n in differing(a, b) if n not in ignored]
    if reasons:
        return Comparison(case, a.row, b.row, UNLIKE, differing=tuple(reasons))
    runs = [runs_of(one.row) for one in (a, b)]
    if not all(runs):
        return Comparison(case, a.row, b.row, BROKEN if runs[0] else MENDED if runs[1] else NEITHER)
    ratio = ratio_of_runs(*runs)
    return Comparison(case, a.row, b.row, verdict_of(ratio), ratio, processes_needed(ratio, change))


def _shown(value: Any) -> str:
    return "unknown" if value is None else str(value)


def runs_of(row: Row) -> list[list[float]]:
    """Seconds of every sample of each process of a row that ran; empty for one that did not."""
    return row["runs"] if row["status"] == "ok" else []


def verdict_of(ratio: Ratio) -> str:
    """On which side of 1 the interval lies, with a question mark where it holds no run-to-run variance."""
    if ratio.interval is None or ratio.interval.low <= 1 <= ratio.interval.high:
        return SAME
    sure = ratio.reach is not None
    if ratio.interval.low > 1:
        return SLOWER if sure else PERHAPS_SLOWER
    return FASTER if sure else PERHAPS_FASTER


def label(case: Row) -> str:
    """A short name, of cases that only another version of this project knows too: "sdxl unet 256px fp32"."""
    batch = f"x{case['batch_size']}" if case["batch_size"] > 1 else ""
    steps = f"{case['steps']} steps" if case.get("steps") else ""
    profile = "" if case.get("profile") == EAGER.name else case.get("profile")
    card = f"in {case['vram_bytes'] / 2**30:.4g} GiB" if case.get("vram_bytes") else ""
    size = f"{case['resolution']}px"
    return " ".join(filter(None, (case["model"], case["target"], size, batch, case["dtype"], steps, profile, card)))
