"""Rows of one case that several fresh processes measured, made into one row. Pure: rows in, rows out."""

from collections.abc import Callable, Hashable, Iterable, Sequence
from statistics import fmean, median
from typing import Any

from koala.harness.records import Row


def grouped(rows: Iterable[Row], key: Callable[[Row], Hashable]) -> list[list[Row]]:
    """Rows of equal `key` together, each group in order of its processes; groups in the order of their first rows.

    `key` must not tell processes apart, and of each process only the row that counts should be among `rows`.
    """
    groups: dict[Hashable, list[Row]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    return [sorted(group, key=process_of) for group in groups.values()]


def process_of(row: Row) -> int:
    """The 0-based number of the fresh process that measured `row`; rows of older versions were the only one."""
    return row.get("process") or 0


def merged(rows: Sequence[Row]) -> Row:
    """One row of those that the processes of one case left, in their order.

    Samples stand one process after the other; `runs` keeps the totals of each process apart, in seconds. It is "ok" if
    all are, else what the first other one is. Bytes are the most of any process; what is timed once, is the first's.
    """
    assert rows
    first, *_ = ordered = sorted(rows, key=process_of)
    unlike = next((row for row in ordered if row["status"] != "ok"), first)
    joined: Row = {
        **first,
        **{name: unlike[name] for name in ("status", "reason", "detail") if name in unlike},
        "samples_s": _samples(ordered),
        "runs": [total for row in ordered if (total := row.get("samples_s", {}).get("total"))],
        "processes": len(ordered),
        "memory_bytes": _each([row.get("memory_bytes", {}) for row in ordered], _largest),
        **_energy(ordered),
    }
    conditions = [row["conditions"] for row in ordered if row.get("conditions")]
    if conditions:
        joined["conditions"] = _each(conditions, _worst)
    if all(row.get("wall_s") is not None for row in ordered):
        joined["wall_s"] = sum(row["wall_s"] for row in ordered)
    return joined


def _samples(rows: Sequence[Row]) -> dict[str, list]:
    """Every list of samples that any process has, one process after the other."""
    found = [row.get("samples_s", {}) for row in rows]
    names = dict.fromkeys(name for samples in found for name in samples)
    return {name: [sample for samples in found for sample in samples.get(name, [])] for name in names}


def _each(records: Sequence[dict[str, Any]], join: Callable[[list[Any]], Any]) -> dict[str, Any]:
    """One record of several: each field is `join` of its values that are known, or null where none is."""
    names = dict.fromkeys(name for record in records for name in record)
    known = {name: [record[name] for record in records if record.get(name) is not None] for name in names}
    return {name: join(values) if values else None for name, values in known.items()}


def _largest(values: list[Any]) -> Any:
    return max(values)


def _worst(values: list[Any]) -> Any:
    """Of ranges ("low", "median", "high") the whole, of lists everything named in any, of numbers the largest."""
    if all(isinstance(value, dict) for value in values):
        joins: dict[str, Callable[[list[Any]], Any]] = {"low": min, "median": median}
        named = {name: [v[name] for v in values if v.get(name) is not None] for value in values for name in value}
        return {name: joins.get(name, max)(found) if found else None for name, found in named.items()}
    if all(isinstance(value, list) for value in values):
        return sorted({item for value in values for item in value})
    return max(values) if all(isinstance(value, int | float) for value in values) else values[0]


def _energy(rows: Sequence[Row]) -> Row:
    """Joules per image as the mean over all samples; null where a process has none or the methods differ."""
    joules, methods = [row.get("energy_j") for row in rows], {row.get("energy_method") for row in rows}
    fields = {name for row in rows for name in row} & {"energy_j", "energy_method"}
    if None in joules or len(methods) > 1:
        return dict.fromkeys(fields)
    counts = [len(row.get("samples_s", {}).get("total", [])) for row in rows]
    mean = fmean(joules, weights=counts) if any(counts) else fmean(joules)  # type: ignore[arg-type]
    return {"energy_j": mean, **({"energy_method": methods.pop()} if "energy_method" in fields else {})}
