"""The table that people cite, as markdown: one line a case, medians with their interval, peak memory, versions."""

import pandas as pd

from bench.profiles import DIFFUSERS
from bench.report.cards import remarks
from bench.report.frame import STAGES
from koala.harness.tables import Format, escape, gib, significant, to_markdown
from koala.sampling.profiles import EAGER

_SECONDS = significant(3)


def render_markdown(frame: pd.DataFrame) -> str:
    """The tables for people: rounded, out of memory spelled out, weights and versions said below each device."""
    if frame.empty:
        return "No rows yet: `python -m bench sweep` measures some.\n"
    parts = []
    for device, group in frame.groupby("device_name", sort=False, dropna=False):
        parts += [f"### {escape(str(device))}", "", to_markdown(_shown(group), _FORMATS), ""]
        images = group[(group["target"] == "pipeline") & (group["status"] == "ok")]
        if not images.empty:
            parts += ["Where the time of an image goes:", "", to_markdown(_parts(images), _FORMATS), ""]
        parts += [*_footnotes(group), ""]
    return "\n".join(parts)


_FORMATS: dict[str, Format] = {
    "resolution": str,
    "batch": str,
    "steps": lambda value: str(int(value)),
    "card [GiB]": lambda value: f"{value / 2**30:.4g}",
    "latency [s]": str,
    **{f"{part} [s]": _SECONDS for part in (*STAGES, "step", "U-Net", "scheduler", "first image", "first call")},
    "warm-up [s]": _SECONDS,
    "parts / total [%]": significant(4),
    "images/s": _SECONDS,
    "x sdxl": significant(3),
    "x diffusers": significant(3),
    "n": str,
    "processes": str,
    "NFE": lambda value: f"{value:.4g}",
    "TFLOP/image": _SECONDS,
    "TFLOP/s": _SECONDS,
    "of peak [%]": significant(3),
    "J/image": _SECONDS,
    "weights [GiB]": gib,
    "peak allocated [GiB]": gib,
    "peak reserved [GiB]": gib,
    "peak of process [GiB]": gib,
    "peak of device [GiB]": gib,
    "peak RSS [GiB]": gib,
}


def _case_columns(group: pd.DataFrame) -> dict[str, pd.Series]:
    """What tells one line from another."""
    return {
        "model": group["model"],
        "target": group["target"],
        "resolution": group["resolution"],
        "batch": group["batch_size"],
        "dtype": group["dtype"],
        "steps": group["steps"],
        **({} if set(group["profile"]) == {EAGER.name} else {"profile": group["profile"]}),
        "card [GiB]": group["vram_bytes"],
    }


def _shown(group: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame(
        {
            **_case_columns(group),
            "latency [s]": [_latency_text(line) for line in group.to_dict("records")],
            "step [s]": group["step_s"],
            "x sdxl": group["speedup_vs_sdxl"],
            "x diffusers": group["speedup_vs_diffusers"],
            "n": group["samples"],
            **({} if (group["processes"] == 1).all() else {"processes": group["processes"]}),
            "NFE": group["nfe"],
            "TFLOP/image": group["flops_per_image"] / 1e12,
            "TFLOP/s": group["achieved_flops_per_s"] / 1e12,
            "of peak [%]": 100 * group["share_of_flops"],
            "J/image": group["energy_j"],
            "weights [GiB]": group["weights_bytes"],
            "peak allocated [GiB]": group["peak_allocated_bytes"],
            "peak reserved [GiB]": group["peak_reserved_bytes"],
            "peak of process [GiB]": group["process_peak_bytes"],
            "peak of device [GiB]": group["device_peak_bytes"],
            "peak RSS [GiB]": group["rss_peak_bytes"],
        }
    )


def _parts(images: pd.DataFrame) -> pd.DataFrame:
    """Where the time of a call goes, and what comes before the first one."""
    return pd.DataFrame(
        {
            **{name: values for name, values in _case_columns(images).items() if name != "target"},
            **{f"{stage} [s]": images[f"{stage}_s"] for stage in STAGES},
            "parts / total [%]": 100 * images["parts_share"].astype(float),
            "U-Net [s]": images["unet_s"],
            "scheduler [s]": images["scheduler_s"],
            "images/s": images["images_per_s"],
            "first image [s]": images["first_image_s"],
            "first call [s]": images["first_call_s"],
            "warm-up [s]": images["warmup_s"],
        }
    )


_STATUS_WORDS = {"oom": "out of memory", "timeout": "timed out", "unsupported": "not possible"}


def _latency_text(line: dict) -> str:
    if line["status"] != "ok":
        return _STATUS_WORDS.get(line["status"], line["status"])
    middle = _SECONDS(line["latency_s"])
    if pd.isna(line["latency_low_s"]):
        return f"{middle} ({_SECONDS(line['latency_min_s'])} to {_SECONDS(line['latency_max_s'])}, n < 6)"
    return f"{middle} [{_SECONDS(line['latency_low_s'])}, {_SECONDS(line['latency_high_s'])}]"


def _footnotes(group: pd.DataFrame) -> list[str]:
    notes = [
        "Latency: median and its 95% interval of synchronised wall time; below 6 samples no such interval exists and "
        "minimum to maximum stand instead. A `unet` case is one denoising step of the model's recipe (guided where "
        "the recipe is), a `pipeline` case goes from prompt to float images on the device. NFE counts forwards of the "
        "denoising network per image, guidance included; TFLOP counts 2 for a multiply-add, of a `unet` case those of "
        "the step.",
    ]
    if (group["processes"] > 1).any():
        notes.append("Measured in several fresh processes: the interval resamples these, then the samples in them.")
    pipelines = group[group["target"] == "pipeline"]
    if not pipelines.empty:
        notes.append(
            "`x sdxl` of a pipeline: each model in its recipe's own steps against SDXL in its own, or both in the same "
            "number of steps; same resolution, dtype, batch, profile and software."
        )
    if (pipelines["profile"] == DIFFUSERS.name).any():
        notes.append(
            f"`{DIFFUSERS.name}` is the model through diffusers' own pipeline, and `x diffusers` its latency over the "
            "row's."
        )
    sources = group["peak_source"].dropna().unique()
    notes += [f"The device's peak: {escape(source)}." for source in sources]
    if group["share_of_flops"].notna().any():
        notes.append(_OF_PEAK)
    notes += _energy_notes(group)
    if not pipelines.empty:
        notes.append(
            "denoise: the denoising steps, each U-Net and scheduler (with scaling and guidance); rest: what lies "
            "before, between and after the stages, timed on its own, so that parts / total is a check. First image: "
            "loading and the first call; neither it nor warm-up is in the latency."
        )
    if (group["weights"] == "random").any():
        notes.append("Weights are random: time and memory do not depend on their values, images would be noise.")
    versions = group[["torch", "diffusers", "transformers", "cuda", "driver"]].drop_duplicates()
    for line in versions.to_dict("records"):
        notes.append(", ".join(f"{name} {value}" for name, value in line.items() if not pd.isna(value)) + ".")
    reasons = group[group["status"].isin(["failed", "timeout", "unsupported"])]
    notes += list(dict.fromkeys(_reason_text(line) for line in reasons.to_dict("records")))
    notes += remarks(group)
    notes += [_doubt_text(line) for line in group[group["doubts"].notna()].to_dict("records")]
    return [f"- {note}" for note in notes]


_OF_PEAK = (
    "`of peak` holds all counted operations against the peak in the row's dtype, also those that run in another: the "
    "decoding of SDXL's images, in fp32 in an fp16 pipeline (`decode_dtype`), which cannot reach that peak, and "
    "matrices in fp8, which may exceed it."
)


def _energy_notes(group: pd.DataFrame) -> list[str]:
    """How J/image was found, and how much of it the window's ends leave open: much, where calls are few and short."""
    known = group[group["energy_j"].notna()]
    hows = known["energy_method"].dropna().unique()
    notes = [f"J/image: the whole board while samples were taken, {escape(how)}." for how in hows]
    off = (known["energy_within_j"].astype(float) / known["energy_j"].astype(float)).max()
    if pd.isna(off):
        return notes
    ends = f"J/image: the window's ends are known within 50 ms each, which is up to {significant(2)(100 * off)}% of it."
    return [*notes, ends]


def _doubt_text(line: dict) -> str:
    card = "" if pd.isna(line["vram_bytes"]) else f" in {line['vram_bytes'] / 2**30:.4g} GiB"
    what = f"{line['model']} {line['target']} {line['resolution']} px {line['dtype']} {line['profile']}{card}"
    return escape(f"{what} may be unstable: {line['doubts']}.")


def _reason_text(line: dict) -> str:
    return f"{line['model']} {line['target']}: {line['reason']}"
