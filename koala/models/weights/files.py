"""Which files of a folder hold a network, chosen by their names alone."""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

CONFIG = "config.json"
_HALF = "fp16"  # the only variant that pipelines publish beside the plain one


@dataclass(frozen=True)
class Layout:
    """Where a network lies in a diffusers pipeline: its folder, and the names of its files up to the ending."""

    folder: str
    safetensors: str = "diffusion_pytorch_model"
    bin: str = "diffusion_pytorch_model"

    @property
    def example(self) -> str:
        """The file that a folder usually has."""
        return f"{self.safetensors}.safetensors"


LAYOUTS = {
    "unet": Layout("unet"),
    "text_encoder_0": Layout("text_encoder", "model", "pytorch_model"),
    "text_encoder_1": Layout("text_encoder_2", "model", "pytorch_model"),
    "autoencoder": Layout("vae"),
}


def choose(names: Collection[str], layout: Layout, dtype: str) -> tuple[str, ...]:
    """The file among `names`, or all its shards, that suits `dtype` best; empty if none is whole.

    safetensors before .bin; for fp16 the .fp16 variant before the plain one, for the others the plain one first.
    """
    for stem, ending in ((layout.safetensors, "safetensors"), (layout.bin, "bin")):
        for variant in (_HALF, "") if dtype == "fp16" else ("", _HALF):
            if found := _whole(names, stem, variant, ending):
                return found
    return ()


def is_half(chosen: Sequence[str]) -> bool:
    """Whether the chosen files are the .fp16 variant."""
    return any(f".{_HALF}" in name for name in chosen)


def _whole(names: Collection[str], stem: str, variant: str, ending: str) -> tuple[str, ...]:
    mark = f".{variant}" if variant else ""
    if (single := f"{stem}{mark}.{ending}") in names:
        return (single,)
    number = r"-(\d{5})-of-(\d{5})"
    shard = re.compile(f"(?:{stem}{mark}{number}|{stem}{number}{mark})\\.{ending}".replace(".fp16", r"\.fp16"))
    shards = sorted(name for name in names if shard.fullmatch(name))
    totals = {name.partition("-of-")[2][:5] for name in shards}
    return tuple(shards) if len(totals) == 1 and len(shards) == int(totals.pop()) else ()
