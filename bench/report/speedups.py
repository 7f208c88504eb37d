"""How many times faster a row is than SDXL, and than stock diffusers, under the same conditions."""

from functools import cache

import pandas as pd

from bench.profiles import DIFFUSERS
from koala.errors import UnknownName
from koala.models import zoo
from koala.models.twin import TWIN_PREFIX

BASELINE = "sdxl"
OWN_STEPS = "own"
_BASELINES = (BASELINE, TWIN_PREFIX + BASELINE)
_SAME = (
    *("target", "resolution", "batch_size", "dtype", "vram_bytes"),
    *("device_name", "driver", "threads", "torch", "diffusers"),
)
_READ = ("model", "steps", "profile", "latency_s", *_SAME)

Key = tuple[object, ...]


def speedups_vs_sdxl(frame: pd.DataFrame) -> list[float | None]:
    """SDXL's latency over each row's, same profile; a twin is held against SDXL's twin.

    Of pipelines, a model in its recipe's own steps is held against SDXL in its own; else both take the same number.
    """
    lines = _lines(frame)
    keyed = [(line, key) for line in lines if line["model"] in _BASELINES for key in _step_keys(line)]
    known = {(line["model"], line["profile"], key, _conditions(line)): line["latency_s"] for line, key in keyed}

    def speedup(line: dict) -> float | None:
        own = (known.get((_baseline(line["model"]), line["profile"], k, _conditions(line))) for k in _step_keys(line))
        return _ratio(next((latency for latency in own if latency is not None), None), line["latency_s"])

    return [speedup(line) for line in lines]


def speedups_vs_diffusers(frame: pd.DataFrame) -> list[float | None]:
    """The latency of the same pipeline case through stock diffusers over each row's; its own rows have none."""

    def key(line: dict) -> Key:
        return line["model"], line["steps"], _conditions(line)

    lines = _lines(frame)
    stock = {key(line): line["latency_s"] for line in lines if line["profile"] == DIFFUSERS.name}
    ours = [None if line["profile"] == DIFFUSERS.name else line["latency_s"] for line in lines]
    return [_ratio(stock.get(key(line)), latency) for line, latency in zip(lines, ours, strict=True)]


def _lines(frame: pd.DataFrame) -> list[dict]:
    """What is read of the rows, with None where nothing is known, so that equal unknowns are equal."""
    columns = [frame[name].astype(object).where(frame[name].notna(), None) for name in _READ]
    return [dict(zip(_READ, line, strict=True)) for line in zip(*columns, strict=True)]


def _conditions(line: dict) -> Key:
    return tuple(line[name] for name in _SAME)


def _step_keys(line: dict) -> list[Key]:
    """What a row's steps may be matched by, the most telling first."""
    own = [(OWN_STEPS,)] if line["target"] == "pipeline" and line["steps"] == _own_steps(line["model"]) else []
    return [*own, (line["steps"],)]


@cache
def _own_steps(model: str) -> int | None:
    try:
        return zoo.get(model).recipe.steps
    except UnknownName:  # a row of another version of this project
        return None


def _baseline(model: str) -> str:
    return TWIN_PREFIX + BASELINE if model.startswith(TWIN_PREFIX) else BASELINE


def _ratio(base: float | None, own: float | None) -> float | None:
    return base / own if base and own else None
