"""Where the time of whole images goes, a figure a device: encode, denoise, decode and the rest as stacked bars."""

from pathlib import Path

import pandas as pd
from matplotlib import rc_context
from matplotlib.figure import Figure

from bench.report.frame import STAGES
from koala.harness.figures import FAINT, GRID, STYLE, save
from koala.harness.tables import significant
from koala.sampling.profiles import EAGER

NAME = "stages"
MOST_BARS = 30  # of more, the slowest
_COLOURS = dict(zip(STAGES, ("#56b4e9", "#0072b2", "#e69f00", "#a3a39c"), strict=True))
_NAMED = ("model", "steps", "resolution", "dtype", "profile")
_SECONDS = significant(3)


def draw(frame: pd.DataFrame, device: str, base: Path) -> list[Path]:
    """`base`.svg and .png of the device's images, one a call, uncapped; none where no parts were timed."""
    rows = _rows(frame)
    if rows.empty:
        return []
    with rc_context(STYLE):
        figure = Figure(figsize=(8.5, 1.1 + 0.24 * len(rows)), facecolor="white", layout="constrained")
        axis = figure.subplots()
        left = pd.Series(0.0, index=rows.index)
        shares = {stage: rows[f"{stage}_s"].astype(float).fillna(0.0) / rows["whole"] for stage in STAGES}
        for stage, share in shares.items():
            axis.barh(rows["name"], 100 * share, left=100 * left, color=_COLOURS[stage], label=stage, height=0.72)
            left += share
        for name, seconds in zip(rows["name"], rows["whole"], strict=True):
            axis.annotate(
                f"{_SECONDS(seconds)} s", (100, name), (4, 0), textcoords="offset points", va="center", size=7
            )
        axis.set(xlim=(0, 100), xlabel="share of an image's time [%]")
        axis.margins(y=0.01)
        axis.grid(axis="x", color=GRID, linewidth=0.8)
        axis.set_axisbelow(True)
        axis.tick_params(axis="y", length=0, labelsize=7.5)
        axis.tick_params(axis="x", colors=FAINT)
        figure.legend(loc="outside upper right", ncols=len(STAGES), frameon=False, fontsize=8)
        figure.suptitle(device, x=0.01, ha="left", fontsize=10, parse_math=False)
        return save(figure, base)


def _rows(frame: pd.DataFrame) -> pd.DataFrame:
    """Images whose parts were timed, the slowest on top, with a name that tells them apart."""
    rows = frame[
        (frame["status"] == "ok")
        & (frame["target"] == "pipeline")
        & (frame["batch_size"] == 1)
        & frame["vram_bytes"].isna()
        & frame["denoise_s"].notna()
    ].copy()
    if rows.empty:
        return rows
    rows["whole"] = rows[[f"{stage}_s" for stage in STAGES]].astype(float).sum(axis=1)
    rows["name"] = [_name(line) for line in rows[list(_NAMED)].to_dict("records")]
    rows = rows.sort_values(["whole", "started_at"], kind="stable").drop_duplicates("name", keep="last")
    return rows[-MOST_BARS:]


def _name(line: dict) -> str:
    profile = "" if line["profile"] == EAGER.name else f", {line['profile']}"
    steps = f"{line['steps']:.0f} step{'s' if line['steps'] != 1 else ''}"
    return f"{line['model']}, {steps}, {line['resolution']} px, {line['dtype']}{profile}"
