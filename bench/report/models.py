"""All models side by side on the device that has most of them: what a README shows first, as a table and a figure."""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.report.headline import TARGETS
from bench.report.pareto import MEMORY_KINDS
from bench.report.table import latency_texts
from koala.errors import KoalaError
from koala.harness.figures import FAINT, INK, STYLE, save
from koala.harness.files import read_text, write_whole
from koala.harness.tables import Format, escape, gib, significant, to_markdown
from koala.sampling.profiles import EAGER

NAME = "models"
BEGIN, END = "<!-- made by `python -m bench report --readme` -->", "<!-- end -->"
_GROUP = ["device_name", "target", "resolution", "dtype"]
_OURS, _OTHERS = "#0072b2", "#b5b5ae"  # KOALA's models, and the others
_OUT_OF_MEMORY = "oom"


@dataclass(frozen=True)
class Models:
    """One image a call of each model, eager, on one device, slowest first; those out of memory before them.

    `rows` are lines of the frame with `name`, the model and its steps, and `memory`, bytes of the kind `memory_kind`.
    """

    title: str
    memory_kind: str
    rows: pd.DataFrame


def models(frame: pd.DataFrame) -> Models | None:
    """The largest group of one device, target, resolution and dtype; of a GPU if any has rows, then whole images."""
    counted = ["ok", _OUT_OF_MEMORY]
    rows = frame[(frame["profile"] == EAGER.name) & (frame["batch_size"] == 1) & frame["status"].isin(counted)]
    rows = rows[rows["target"].isin(TARGETS) & rows["vram_bytes"].isna() & rows["pipeline"].isna()]
    if rows.empty:
        return None
    key = max((own for _, own in rows.groupby(_GROUP, sort=False)), key=_rank)
    steps = ["" if pd.isna(n) else f", {n:.0f} step{'s' if n != 1 else ''}" for n in key["steps"]]
    key = key.assign(name=key["model"] + steps)
    found = next((name for name in MEMORY_KINDS if key[name].notna().any()), next(iter(MEMORY_KINDS)))
    memory = pd.to_numeric(key[found]).where(key["status"] == "ok")
    key = key.assign(memory=memory, latency_s=pd.to_numeric(key["latency_s"]))
    first = key.iloc[0]
    title = f"{TARGETS[first['target']]}, {first['resolution']} px, {first['dtype']}: {first['device_name']}"
    ordered = key.sort_values("latency_s", ascending=False, na_position="first", kind="stable")
    return Models(title, MEMORY_KINDS[found], ordered)


def _rank(group: pd.DataFrame) -> tuple:
    on_gpu = bool(group[next(iter(MEMORY_KINDS))].notna().any())
    return on_gpu, group["model"].nunique(), group["target"].iloc[0] == "pipeline", group["resolution"].iloc[0]


def to_readme(path: Path, shown: Models, figure: Path) -> None:
    """Put table and figure between the two marks in a markdown file; a `KoalaError` where it has no such marks."""
    text = read_text(path)
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not end:
        raise KoalaError(f"{path} has no place for the models: lines that say {BEGIN} and {END}")
    write_whole(path, f"{before}{begin}\n{render_markdown(shown, figure)}\n{end}{after}")


def render_markdown(shown: Models, figure: Path) -> str:
    """What stands between the marks: title, table, figure."""
    rows = shown.rows
    table = pd.DataFrame(
        {
            "model": rows["name"],
            "latency [s]": latency_texts(rows),
            "x sdxl": rows["speedup_vs_sdxl"],
            "memory [GiB]": rows["memory"],
        }
    )
    formats: dict[str, Format] = {"latency [s]": str, "x sdxl": significant(3), "memory [GiB]": gib}
    title, weights = escape(shown.title), " or ".join(sorted(set(rows["weights"])))
    said = f"{title}; {weights} weights; memory: {shown.memory_kind}."
    return "\n\n".join([said, to_markdown(table, formats), f"![{title}]({figure.as_posix()})"])


def draw(shown: Models, base: Path) -> list[Path]:
    """`base`.svg and .png: a bar a model, its latency to the left and its memory to the right."""
    with rc_context(STYLE):
        figure = Figure(figsize=(9, 0.9 + 0.24 * len(shown.rows)), facecolor="white", layout="constrained")
        time, memory = figure.subplots(1, 2, sharey=True)
        rows, show = shown.rows.iloc[::-1], significant(3)
        _bars(time, rows, list(rows["latency_s"]), "latency [s]", show)
        _bars(memory, rows, list(rows["memory"] / 2**30), f"memory [GiB], {shown.memory_kind}", show)
        figure.suptitle(shown.title, x=0.01, ha="left", fontsize=11, parse_math=False)
        return save(figure, base)


def _bars(axis: Axes, rows: pd.DataFrame, values: list[float], title: str, show: Format) -> None:
    colours = [_OURS if model.startswith("koala") else _OTHERS for model in rows["model"]]
    places = range(len(rows))
    axis.barh(places, [0 if pd.isna(value) else value for value in values], color=colours, height=0.72)
    for place, (value, status) in enumerate(zip(values, rows["status"], strict=True)):
        said = "out of memory" if status == _OUT_OF_MEMORY else "" if pd.isna(value) else show(value)
        at = 0 if pd.isna(value) or status == _OUT_OF_MEMORY else value
        axis.annotate(said, (at, place), (3, 0), textcoords="offset points", va="center", fontsize=7, color=INK)
    axis.set_yticks(places, rows["name"], parse_math=False)
    axis.set_title(title, loc="left", fontsize=8, color=FAINT)
    axis.tick_params(axis="y", length=0)
    axis.set_xticks([])
    axis.spines["bottom"].set_visible(False)
    axis.margins(x=0.12, y=0.01)
