"""The papers' cells beside ours: published ones are marked, and a cell nobody measured stays empty."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from bench.profiles import DIFFUSERS
from bench.report.cards import beside_published
from bench.report.frame import latest_rows, to_frame
from koala import aliases
from koala.harness import records
from koala.harness.tables import escape, read_cells, significant, to_markdown
from koala.sampling.profiles import EAGER

COLUMNS = ("model", "gpu", "precision", "resolution", "steps", "latency_s", "memory_gb", "source")
UNET_SUFFIX = "-unet"
_SECONDS = significant(3)
_KEY = ["model", "resolution", "precision", "steps"]
_HEADINGS = {
    EAGER.name: "",
    DIFFUSERS.name: ", diffusers' pipeline",
}  # of the profiles that stand beside published cells


def read_published(path: Path) -> pd.DataFrame:
    """The published cells, as text; `latency_s` is a number or OOM, an empty cell was not given."""
    return read_cells(path, COLUMNS)


def comparison(published: pd.DataFrame, stores: Sequence[Path]) -> str:
    """A markdown page: published cells beside the same measured ones, then the speed-ups of a U-Net step."""
    known = records.read(stores)
    measured = to_frame(latest_rows(known), known)
    return "\n".join(
        [
            "# Published beside measured",
            "",
            "Columns marked *published* are copied from the KOALA paper and its model card, with the authors' GPUs and "
            "software; the others were measured by `python -m bench sweep`. An empty cell was not measured (or not "
            "published). Regenerate with `python -m bench publish`.",
            "",
            "## Same model, resolution, precision and steps",
            "",
            to_markdown(beside(published, measured)),
            "",
            "- Cells are `latency in s | memory`. Published memory is in GB as the figure labels it (K-fig7: Fig. 7 of "
            "the paper, which does not say what kind of peak it is); measured memory is torch's peak reserved, in GiB.",
            "- `*-unet` rows (K-card: the model card) are 25 steps of the U-Net: beside them stands the median of one "
            "measured denoising step times 25.",
            "- Published latencies went through diffusers' pipelines, measured ones through our sampler unless "
            "the heading says otherwise. Where the source does not state the steps, no cell stands beside.",
            "",
            "## Smaller cards, emulated",
            "",
            to_markdown(beside_published(published, measured)),
            "",
            "- Published: whether the model fitted on that card, and its memory as the figure labels it. Measured: "
            "whether it fits under a hard cap of as many GiB on the device named above (`bench sweep cards`), and the "
            "margin: the cap less what the same case takes where nothing caps it (context and pool of one call). Below "
            "zero a case may still fit, for under a cap the pool gives back free blocks that it would have kept.",
            "",
            "## Speed-up of one U-Net step over SDXL",
            "",
            to_markdown(_speedups(published, measured), {"speed-up": _SECONDS}),
            "",
        ]
    )


def beside(published: pd.DataFrame, measured: pd.DataFrame) -> pd.DataFrame:
    """A line a published model and a column a device, the published ones first; cells are text."""
    whole = measured if measured.empty else measured[measured["vram_bytes"].isna()]
    columns = [] if whole.empty else list(whole.groupby(["device_name", "profile"], sort=False))
    lines = []
    for key, group in published.groupby(_KEY, sort=False):
        line = dict(zip(_KEY, key, strict=True))
        for gpu in dict.fromkeys(published["gpu"]):
            cell = group[group["gpu"] == gpu]
            line[f"{gpu} (published)"] = _published_cell(cell.iloc[0]) if len(cell) else None
        for (device, profile), cells in columns:
            if profile in _HEADINGS:
                line[escape(device) + _HEADINGS[profile]] = _measured_cell(cells, *key)
        lines.append(line | {"source": group["source"].iloc[0]})
    return pd.DataFrame(lines)


def _published_cell(cell: pd.Series) -> str:
    if cell["latency_s"] == "OOM":
        return "OOM"
    return f"{cell['latency_s']} | {cell['memory_gb']}" if cell["memory_gb"] else cell["latency_s"]


def _measured_cell(measured: pd.DataFrame, model: str, resolution: str, precision: str, steps: str) -> str | None:
    """Our cell for a published one: same model, resolution, precision and steps, one image, random weights or not."""
    name, is_unet = aliases.MODELS.get(model, model), model.endswith(UNET_SUFFIX)
    same = measured[
        (measured["model"] == name)
        & (measured["resolution"] == int(resolution))
        & (measured["dtype"] == precision)
        & (measured["batch_size"] == 1)
        & (measured["target"] == ("unet" if is_unet else "pipeline"))
    ]
    if not is_unet:
        same = same[same["steps"].astype("Int64").astype(str) == steps]
    if same.empty:
        return None
    cell = same.sort_values("started_at", kind="stable").iloc[-1]
    if cell["status"] != "ok":
        return "OOM" if cell["status"] == "oom" else None
    if is_unet:
        return f"{_SECONDS(cell['latency_s'] * int(steps))} ({steps} x step)"
    memory = cell["peak_reserved_bytes"]
    return _SECONDS(cell["latency_s"]) + ("" if pd.isna(memory) else f" | {_SECONDS(memory / 2**30)}")


def _speedups(published: pd.DataFrame, measured: pd.DataFrame) -> pd.DataFrame:
    unets = published[published["model"].str.endswith(UNET_SUFFIX)]
    lines = []
    for gpu, group in unets.groupby("gpu", sort=False):
        first = group[group["model"].map(aliases.MODELS.get) == "sdxl"].iloc[0]
        alike = group[group["resolution"] == first["resolution"]]
        seconds = {aliases.MODELS.get(m, m): float(s) for m, s in zip(alike["model"], alike["latency_s"], strict=True)}
        lines += [
            _speedup_line(name, gpu, first["resolution"], first["precision"], seconds["sdxl"] / s, "published")
            for name, s in seconds.items()
            if name in aliases.MODELS.values()
        ]
    if not measured.empty:
        one_image = (measured["batch_size"] == 1) & (measured["profile"] == EAGER.name) & measured["vram_bytes"].isna()
        steps = measured[(measured["target"] == "unet") & one_image]
        lines += [
            _speedup_line(r["model"], r["device_name"], r["resolution"], r["dtype"], r["speedup_vs_sdxl"], "measured")
            for r in steps[steps["speedup_vs_sdxl"].notna()].to_dict("records")
        ]
    return pd.DataFrame(lines)


def _speedup_line(
    model: str, device: object, resolution: object, precision: str, speedup: float, origin: str
) -> dict[str, object]:
    return {
        "origin": origin,
        "device": device,
        "resolution": str(resolution),
        "precision": precision,
        "model": model,
        "speed-up": speedup,
    }
