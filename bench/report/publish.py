"""From working rows to what people cite: `results/<device>/` with rows, CSV, markdown and figures."""

import json
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from bench.report import devices
from bench.report.frame import latest_rows, to_frame
from bench.sweep import FINISHED
from koala.errors import KoalaError
from koala.harness import environment, records
from koala.harness.files import write_whole
from koala.harness.records import Records, Row
from koala.models.twin import TWIN_PREFIX


def publish(sources: Iterable[Path], results: Path) -> list[Path]:
    """Merge the finished rows of `sources` into one folder a device; the folders written.

    Rows of small twins stay behind: they test the harness and say nothing of a model.
    """
    fresh = records.read(sources)
    by_device: dict[str, list[Row]] = defaultdict(list)
    for row in latest_rows(fresh):
        if row["status"] in FINISHED and not row["case"]["model"].startswith(TWIN_PREFIX):
            by_device[environment.slug(_device(row, fresh))].append(_without_place(row))
    if not by_device:
        raise KoalaError("there are no finished rows of full-size models to publish")
    return [_publish_device(results / slug, rows, fresh) for slug, rows in sorted(by_device.items())]


def _without_place(row: Row) -> Row:
    """The row of a pipeline or a trained model by name alone: the folder that it lay in is nobody's business."""
    case = row["case"]
    names = {"weights": Path(case["weights"]).name, **({"pipeline": case["model"]} if case.get("pipeline") else {})}
    return row | {"case": {**case, **names}}


def _device(row: Row, known: Records) -> str:
    name = known.environment(row).get("device_name")
    if not name:
        raise KoalaError(f"a row of {row['case']['model']} names an environment that its file does not hold")
    return name


def _publish_device(folder: Path, rows: list[Row], fresh: Records) -> Path:
    file = folder / "rows.jsonl"
    merged = records.read([file] if file.exists() else [])
    if merged.problems:
        raise KoalaError(f"{merged.problems[0]}; mend the published file first")
    for row in rows:
        merged.add(fresh.environment(row))
        merged.add(row)
    kept = latest_rows(merged)
    named = {row["environment"]: merged.environment(row) for row in kept}
    frame = to_frame(kept, merged)
    lines = [json.dumps(line) + "\n" for line in (*named.values(), *kept)]
    write_whole(file, "".join(lines))
    devices.render(frame, str(frame["device_name"].iloc[0]), folder.parent)
    return folder
