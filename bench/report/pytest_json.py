"""pytest-benchmark's JSON as rows: the perf tests put the case, memory and environment into `extra_info`."""

import json
from collections.abc import Iterable
from pathlib import Path

from bench.case import MEASUREMENT
from koala.errors import KoalaError
from koala.harness import records
from koala.harness.records import Records


def read_any(paths: Iterable[Path]) -> Records:
    """The rows of stores and of pytest-benchmark files together."""
    paths = list(paths)
    known = records.read(path for path in paths if path.suffix != ".json")
    for path in paths:
        if path.suffix == ".json":
            _read_benchmarks(path, known)
    return known


def _read_benchmarks(path: Path, known: Records) -> None:
    try:
        report = json.loads(path.read_text())
        benchmarks = report["benchmarks"]
    except OSError as error:
        raise KoalaError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise KoalaError(f"{path} is not a JSON file of pytest-benchmark") from error
    for benchmark in benchmarks:
        extra = benchmark.get("extra_info", {})
        samples = benchmark.get("stats", {}).get("data")
        if not extra.keys() >= {"case", "environment", "memory_bytes", "params", "threads"} or samples is None:
            known.problems.append(f"{path}: {benchmark.get('name')} is not one of ours or holds no samples, skipped")
            continue
        known.add(extra["environment"])
        row = {
            "schema": extra.get("schema", 1),  # files of the first schema do not name it
            "kind": "bench",
            "measurement": MEASUREMENT,
            "case": extra["case"],
            "status": "ok",
            "samples_s": {"total": samples},
            "memory_bytes": extra["memory_bytes"],
            "params": extra["params"],
            "threads": extra["threads"],
            "environment": extra["environment"]["id"],
            "started_at": report.get("datetime"),
        }
        known.add(records.upgraded(row, str(path)))
