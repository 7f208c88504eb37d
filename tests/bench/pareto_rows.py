"""Rows of bench and eval that meet, and what they are joined to."""

import sys
from dataclasses import replace
from pathlib import Path
from tempfile import mkdtemp

from bench_rows import GPU, PIPELINE, row
from bench_rows import store as bench_store

from bench.report.measured import measured_frame
from bench.report.pareto import LATENCY, join
from bench.report.quality import read_quality
from koala.harness import records
from koala.models import zoo

sys.path.append(str(Path(__file__).parents[1] / "eval"))
from eval_rows import CLIP, FID, estimate_row, image_rows, set_row
from eval_rows import settings as drawn_with
from eval_rows import store as eval_store

H200 = GPU | {"device_name": "NVIDIA H200"}
CPU = H200 | {"id": "cpu", "device_name": "Xeon", "device_kind": "cpu"}
GIB = 2**30
STEADY = [1.0, 0.99, 1.01, 1.005, 0.995, 1.0]


def timed(model="koala-700m", seconds=1.0, environment="gpu", memory=8 * GIB, **more):
    """A pipeline with its model's own recipe."""
    spec = zoo.get(model)
    calls = spec.recipe.steps * (2 if spec.recipe.guided else 1)
    case = replace(PIPELINE, model=model, **{"steps": spec.recipe.steps, **more})
    calls = calls * case.steps // spec.recipe.steps
    total = [seconds * scale for scale in STEADY]
    return row(
        case, total, environment=environment, unet_calls=calls, memory_bytes={"peak_reserved": memory, "rss_peak": GIB}
    )


def gallery(model="koala-700m", suite="koala-core", name=None, weights="hub", n=8, steps=None, guidance=None, **more):
    recipe = zoo.get(model).recipe
    given = {
        "scheduler": recipe.scheduler,
        "steps": steps or recipe.steps,
        "guidance": recipe.guidance if guidance is None else guidance,
    }
    settings = drawn_with(model, weights, recipe=given, **more)
    return set_row(
        f"{name or model}", id=f"{suite} {name or model}", path=f"/x/{suite}/{model}", settings=settings, n=n
    )


def scored(value, of=None, metric=CLIP, **more):
    of = of or gallery(**more)
    values = [value + 0.001 * (place % 4 - 1.5) for place in range(8)]
    return [of, *(image_rows(of, metric, values) if metric is CLIP else [estimate_row(of, metric, value)])]


def joining(folder):
    """What joins rows of both, by files in a folder."""

    def made(bench, quality, metric=None, suite=None, against=LATENCY):
        place = Path(mkdtemp(dir=folder))
        ours = bench_store(place / "bench.jsonl", CPU, *bench, environment=H200)
        theirs = eval_store(place / "eval.jsonl", CLIP, FID, *quality)
        return join(measured_frame([ours]), read_quality(records.read([theirs]), metric, suite), against)

    return made
