"""Smaller cards that a larger one stood for: what fits, by how much, and which profile helps where eager does not."""

import re
from collections.abc import Iterator

import pandas as pd

from koala import aliases
from koala.harness.tables import escape, significant
from koala.sampling.profiles import EAGER

_SIZE = re.compile(r"-(\d+)GB$")  # of a published card's name
_CASE = ["model", "target", "resolution", "batch_size", "dtype", "steps"]


def remarks(group: pd.DataFrame) -> list[str]:
    """Sentences below a device's table about its emulated cards; none where there are none."""
    emulated = group[group["vram_bytes"].notna()]
    if emulated.empty:
        return []
    hows = emulated["emulation"].dropna().unique()
    return [
        *(f"Cards of the size in `card` are emulated on this device: {escape(how)}." for how in hows),
        *_helpers(emulated),
    ]


def _helpers(emulated: pd.DataFrame) -> Iterator[str]:
    """Which profile fits where eager is out of memory, and where none does."""
    for key, cells in emulated.groupby([*_CASE, "vram_bytes"], dropna=False, sort=False):
        eager = cells[cells["profile"] == EAGER.name]
        if eager.empty or eager["status"].iloc[0] != "oom":
            continue
        what = escape(f"{key[0]} {key[1]} {key[2]} px {key[4]} in {key[-1] / 2**30:.4g} GiB")
        fits = [
            f"{line['profile']} fits ({significant(3)(line['latency_s'])} s)"
            for line in cells[(cells["profile"] != EAGER.name) & (cells["status"] == "ok")].to_dict("records")
        ]
        others = sorted(set(cells.loc[cells["status"] == "oom", "profile"]) - {EAGER.name})
        nothing = (
            f"so {'is' if len(others) == 1 else 'are'} {', '.join(others)}"
            if others
            else "no other profile was measured"
        )
        yield f"{what}: {EAGER.name} is out of memory; {'; '.join(fits) or nothing}."


def beside_published(published: pd.DataFrame, measured: pd.DataFrame) -> pd.DataFrame:
    """A line per published cell of a card whose size is known: did it fit there, does it under a cap of that size here,
    and the margin in bytes: the card less what the same case takes where nothing caps it. A case whose margin is
    negative may still fit: under a cap the pool gives blocks back that it would have kept.
    """
    lines = []
    for cell in published.to_dict("records"):
        size = _SIZE.search(cell["gpu"])
        if size is None or cell["model"].endswith("-unet"):
            continue
        card = int(size[1]) * 2**30
        there = "OOM" if cell["memory_gb"] == "OOM" else f"fits, {cell['memory_gb']} GB"
        line = {"model": cell["model"], "resolution": cell["resolution"], "card": cell["gpu"], "published": there}
        lines.append(line | _here(measured, cell, card))
    return pd.DataFrame(lines)


def _here(measured: pd.DataFrame, cell: dict, card: int) -> dict[str, str | None]:
    """What was measured of a published cell, per profile and device: verdict under the cap, and margin in bytes."""
    if measured.empty:
        return {}
    name = aliases.MODELS.get(cell["model"], cell["model"])
    same = measured[
        (measured["model"] == name)
        & (measured["target"] == "pipeline")
        & (measured["resolution"] == int(cell["resolution"]))
        & (measured["dtype"] == cell["precision"])
        & (measured["batch_size"] == 1)
    ]
    line: dict[str, str | None] = {}
    for (device, profile), cells in same.groupby(["device_name", "profile"], sort=False):
        verdict = cells[cells["vram_bytes"] == card]["status"].map({"ok": "fits", "oom": "OOM"}).dropna()
        free = cells[cells["vram_bytes"].isna() & (cells["status"] == "ok")]
        margin = (card - need_bytes(free)).dropna()
        if len(verdict) or len(margin):
            words = [*verdict.iloc[-1:], *(f"{int(value):,} bytes" for value in margin.iloc[-1:])]
            line[f"{escape(str(device))}, {profile}"] = ", ".join(words)
    return line


def need_bytes(frame: pd.DataFrame) -> pd.Series:
    """Bytes of a GPU that each case takes: its context at the end, and the pool of one call that began with no free
    blocks in it.
    """
    return frame["context_end_bytes"].astype(float) + frame["call_peak_reserved_bytes"].astype(float)
