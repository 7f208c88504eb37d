"""Quality beside cost as a table, and what to call each of its lines."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from bench.report.pareto import LATENCY, Joined
from bench.report.table import latency_text
from koala.harness.scores.headings import RANDOM, SUBSTITUTE, lines_of, plain, value_text
from koala.harness.tables import Format, escape, gib, significant, to_markdown
from koala.sampling.profiles import EAGER

_TOLD_APART_BY = ("steps", "resolution", "guidance", "scheduler", "dtype", "profile", "batch_size", "set")
_REAL = "real"


def names(lines: Sequence[dict[str, Any]]) -> list[str]:
    """The model of each line, with what tells it from others of that model, and a side that is not the `usual_side`."""
    usual = usual_side(lines)
    found = []
    for own in lines:
        alike = [line for line in lines if line["model"] == own["model"]]
        unlike = [name for name in _TOLD_APART_BY if len({str(line[name]) for line in alike}) > 1]
        if len(unlike) > 1 and "set" in unlike:
            unlike.remove("set")  # which most often only repeats the others
        if own["resolution"] != usual and "resolution" not in unlike:
            unlike.append("resolution")
        found.append(" ".join([plain(own["model"]), *filter(None, (_word(name, own[name]) for name in unlike))]))
    return found


def usual_side(lines: Sequence[dict[str, Any]]) -> int:
    """The side, in pixels, of most lines; of several such the largest."""
    sides = [line["resolution"] for line in lines]
    return max(sides, key=lambda side: (sides.count(side), side))


def _word(field: str, value: Any) -> str:
    """A field of a line as part of its name; empty for what goes without saying."""
    shown = {
        "steps": lambda: f"{value} step{'s' if value != 1 else ''}",
        "resolution": lambda: f"{value} px",
        "guidance": lambda: f"guidance {value:g}",
        "batch_size": lambda: f"x{value}" if value > 1 else "",
        "profile": lambda: "" if value == EAGER.name else plain(value),
    }
    return shown.get(field, lambda: plain(value))()


def render_markdown(joined: Joined) -> str:
    """The table, each device's lines from cheap to dear, and below it what its columns mean."""
    shown = to_markdown(_shown(joined), {"resolution": str, "batch": str, "steps": str, **_FORMATS})
    return "\n".join([shown, "", *(f"- {escape(note)}" for note in notes(joined)), ""])


_FORMATS: dict[str, Format] = {"guidance": significant(2), "latency [s]": str, "peak memory [GiB]": gib}


def _shown(joined: Joined) -> pd.DataFrame:
    lines = lines_of(joined.frame)
    several = {name: len({str(line[name]) for line in lines}) > 1 for name in ("scheduler", "batch_size")}
    guided = len({(line["model"], line["guidance"]) for line in lines}) > len({line["model"] for line in lines})
    alike = joined.frame[["device", *(name for name in _TOLD_APART_BY if name != "set")]].assign(
        model=joined.frame["model"]
    )
    galleries = bool(alike.duplicated().any())
    columns = {
        "model": lambda line: plain(line["model"]),
        **({"images of": lambda line: plain(line["set"])} if galleries else {}),
        "resolution": lambda line: line["resolution"],
        **({"batch": lambda line: line["batch_size"]} if several["batch_size"] else {}),
        "steps": lambda line: line["steps"],
        **({"scheduler": lambda line: line["scheduler"]} if several["scheduler"] else {}),
        **({"guidance": lambda line: line["guidance"]} if guided else {}),
        "dtype": lambda line: line["dtype"],
        "profile": lambda line: line["profile"],
        "device": lambda line: line["device"],
        "latency [s]": lambda line: latency_text({"status": "ok", **line}),
        "peak memory [GiB]": lambda line: line["peak_memory_bytes"],
        escape(joined.quality.heading): lambda line: value_text(
            {"value": line["quality"], "low": line["quality_low"], "high": line["quality_high"], "n": line["n"]}
        ),
        "efficient": lambda line: "yes" if line["efficient"] else None,
        "weights of latency": lambda line: weights_word(line["latency_weights"]),
        "weights of quality": lambda line: weights_word(line["quality_weights"]),
    }
    return pd.DataFrame({name: [cell(line) for line in lines] for name, cell in columns.items()})


def weights_word(kind: str | None) -> str:
    """Whether weights were random or real, wherever these came from."""
    return RANDOM.partition(" ")[0] if kind == "random" else _REAL


def notes(joined: Joined) -> list[str]:
    """Sentences on what is compared and how."""
    frame, quality = joined.frame, joined.quality
    cost = "latency" if joined.against == LATENCY else "peak memory"
    suite = f" of {plain(quality.suite)}" if quality.suite else ""
    found = [
        f"efficient: no other line of its device is as good in both {cost} and {quality.name}{suite}, and better in "
        "one. It goes by the values; where the intervals of two overlap, either may be the better.",
        "Latency: seconds per image, as `python -m bench table` has it.",
        *cautions(frame),
    ]
    if quality.substitute:
        found.append(f"{SUBSTITUTE}: a substitute for the standard metric.")
    methods = ", ".join(map(str, frame["interval_method"].dropna().unique()))
    return [*found, *([f"Intervals of quality: {methods}."] if methods else []), *joined.remarks]


def cautions(frame: pd.DataFrame) -> list[str]:
    """What random weights mean on either side, and which memory is meant on which device."""
    found = []
    if (frame["latency_weights"] == "random").any():
        found.append("Latency of random weights is that of real ones: the work does not depend on their values.")
    if (frame["quality_weights"] == "random").any():
        found.append("Quality of random weights is that of noise.")
    for kind, group in frame.dropna(subset=["memory_kind"]).groupby("memory_kind", sort=False):
        found.append(f"Peak memory: {kind} ({', '.join(dict.fromkeys(map(str, group['device'])))}).")
    return found
