"""The table that people cite, as markdown: one line a case, medians with their interval, peak memory, versions."""

import pandas as pd

from bench.report.footnotes import footnotes
from bench.report.frame import STAGES
from koala.harness.tables import Format, escape, gib, significant, to_markdown
from koala.sampling.profiles import EAGER

_TIMES = ("status", "latency_s", "latency_low_s", "latency_high_s", "latency_min_s", "latency_max_s")
_SECONDS = significant(3)


def render_markdown(frame: pd.DataFrame, most: int | None = None) -> str:
    """The tables for people: rounded, out of memory spelled out, weights and versions said below each device.

    At most so many lines of each device, and how many more there are.
    """
    if frame.empty:
        return "No rows yet: `python -m bench sweep` measures some.\n"
    parts = []
    for device, group in frame.groupby("device_name", sort=False, dropna=False):
        lines = group[:most]
        parts += [f"### {escape(str(device))}", "", to_markdown(_shown(lines), _FORMATS), ""]
        parts += [f"And {len(group) - len(lines)} more rows.", ""] if len(lines) < len(group) else []
        images = lines[(lines["target"] == "pipeline") & (lines["status"] == "ok")]
        if not images.empty:
            parts += ["Where the time of an image goes:", "", to_markdown(_parts(images), _FORMATS), ""]
        parts += [*(f"- {note}" for note in footnotes(group)), ""]
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
            "latency [s]": latency_texts(group),
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


STATUS_WORDS = {"oom": "out of memory", "timeout": "timed out", "unsupported": "not possible"}


def latency_texts(rows: pd.DataFrame) -> list[str]:
    """The cell of each row."""
    return [latency_text(line) for line in rows[list(_TIMES)].to_dict("records")]


def latency_text(line: dict) -> str:
    """Seconds with their interval; where there is none, from the least to the most; or why there are none."""
    if line["status"] != "ok":
        return STATUS_WORDS.get(line["status"], line["status"])
    middle = _SECONDS(line["latency_s"])
    if pd.isna(line["latency_low_s"]):
        return f"{middle} ({_SECONDS(line['latency_min_s'])} to {_SECONDS(line['latency_max_s'])}, n < 6)"
    return f"{middle} [{_SECONDS(line['latency_low_s'])}, {_SECONDS(line['latency_high_s'])}]"
