"""What to know of a device's table: how it was measured, with what, and which lines to doubt."""

from collections.abc import Iterator

import pandas as pd

from bench.profiles import DIFFUSERS
from bench.report.cards import remarks
from koala.harness.tables import escape, significant


def footnotes(group: pd.DataFrame) -> list[str]:
    """Sentences below the table of one device; only what some line of it gives cause for."""
    parts = (_latency, _comparisons, _costs, _software, _failures, _doubts)
    return [note for part in parts for note in part(group)]


def _latency(group: pd.DataFrame) -> Iterator[str]:
    yield (
        "Latency: median and its 95% interval of synchronised wall time; below 6 samples no such interval exists and "
        "minimum to maximum stand instead. A `unet` case is one denoising step of the model's recipe (guided where "
        "the recipe is), a `pipeline` case goes from prompt to float images on the device."
    )
    if (group["processes"] > 1).any():
        yield (
            "Measured in several fresh processes: the median of their medians, with Student's interval over the "
            "processes and the samples in them, which is wide where processes are few."
        )
    if ((group["target"] == "pipeline") & (group["status"] == "ok")).any():
        yield (
            "denoise: the denoising steps, each U-Net and scheduler (with scaling and guidance); rest: what lies "
            "before, between and after the stages, timed on its own, so that parts / total is a check. First image: "
            "loading and the first call; neither it nor warm-up is in the latency."
        )


def _comparisons(group: pd.DataFrame) -> Iterator[str]:
    pipelines = group[group["target"] == "pipeline"]
    if pipelines["speedup_vs_sdxl"].notna().any():
        yield (
            "`x sdxl` of a pipeline: each model in its recipe's own steps against SDXL in its own, or both in the same "
            "number of steps; same resolution, dtype, batch, profile and software."
        )
    if (pipelines["profile"] == DIFFUSERS.name).any():
        yield (
            f"`{DIFFUSERS.name}` is the model through diffusers' own pipeline, and `x diffusers` its latency over the "
            "row's."
        )


def _costs(group: pd.DataFrame) -> Iterator[str]:
    if group["nfe"].notna().any() or group["flops"].notna().any():
        yield (
            "NFE counts forwards of the denoising network per image, guidance included; TFLOP counts 2 for a "
            "multiply-add, of a `unet` case those of the step."
        )
    for source in group["peak_source"].dropna().unique():
        yield f"The device's peak: {escape(source)}."
    if group["share_of_flops"].notna().any():
        yield (
            "`of peak` holds all counted operations against the peak in the row's dtype, also those that run in "
            "another: the decoding of SDXL's images, in fp32 in an fp16 pipeline (`decode_dtype`), which cannot reach "
            "that peak, and matrices in fp8, which may exceed it."
        )
    yield from _energy(group)


def _energy(group: pd.DataFrame) -> Iterator[str]:
    """How J/image was found, and how much of it the window's ends leave open: much, where calls are few and short."""
    known = group[group["energy_j"].notna()]
    for how in known["energy_method"].dropna().unique():
        yield f"J/image: the whole board while samples were taken, {escape(how)}."
    off = (known["energy_within_j"].astype(float) / known["energy_j"].astype(float)).max()
    if not pd.isna(off):
        share = significant(2)(100 * off)
        yield f"J/image: the window's ends are known within 50 ms each, which is up to {share}% of it."


def _software(group: pd.DataFrame) -> Iterator[str]:
    if (group["weights"] == "random").any():
        yield "Weights are random: time and memory do not depend on their values, images would be noise."
    versions = group[["torch", "diffusers", "transformers", "cuda", "driver"]].drop_duplicates()
    for line in versions.to_dict("records"):
        yield ", ".join(f"{name} {value}" for name, value in line.items() if not pd.isna(value)) + "."


def _failures(group: pd.DataFrame) -> Iterator[str]:
    reasons = group[group["status"].isin(["failed", "timeout", "unsupported"])]
    for line in reasons[["model", "target", "reason"]].drop_duplicates().to_dict("records"):
        yield f"{line['model']} {line['target']}: {line['reason']}"
    yield from remarks(group)


def _doubts(group: pd.DataFrame) -> Iterator[str]:
    for line in group[group["doubts"].notna()].to_dict("records"):
        batch = f" x{line['batch_size']}" if line["batch_size"] > 1 else ""
        steps = "" if pd.isna(line["steps"]) else f" {line['steps']:.0f} steps"
        card = "" if pd.isna(line["vram_bytes"]) else f" in {line['vram_bytes'] / 2**30:.4g} GiB"
        size = f"{line['resolution']} px{batch} {line['dtype']}{steps}"
        what = f"{line['model']} {line['target']} {size} {line['profile']}{card}"
        yield escape(f"{what} may be unstable: {line['doubts']}.")
