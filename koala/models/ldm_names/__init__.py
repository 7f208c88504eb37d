"""The names that a tensor has in its authors' own checkpoint (LDM's, EDM's): one list of rules a network."""

from collections.abc import Collection
from dataclasses import dataclass
from functools import lru_cache

from koala.errors import KoalaError, UnknownName
from koala.models.ldm_names import autoencoder, clip, edm, unet
from koala.models.ldm_names.rules import Layout, Place, places
from koala.models.networks import meta_networks
from koala.models.spec import ADM, AutoencoderPlan, ClipText, ModelSpec


@dataclass(frozen=True)
class Section:
    """Where one network lies in the file: its layout, and place and shape of each key of its state dict.

    Places are named without the prefix.
    """

    prefix: str
    ignored: str
    places: dict[str, Place]
    shapes: dict[str, tuple[int, ...]]


def names(spec: ModelSpec, parts: Collection[str] | None = None) -> dict[str, dict[str, Place]]:
    """Network ("unet", "text_encoder_0" ..., "autoencoder") -> key in its state dict -> place in the one file."""
    return {
        part: {key: found.under(section.prefix) for key, found in section.places.items()}
        for part, section in sections(spec, parts).items()
    }


def sections(spec: ModelSpec, parts: Collection[str] | None = None) -> dict[str, Section]:
    """The sections of `parts`, by default of all that have one; no weights are allocated."""
    known = layouts(spec)
    for part in parts or ():
        if part not in known and part == "autoencoder" and spec.autoencoder is not None:
            raise KoalaError(f"{spec.name} has a tiny autoencoder, for which a single file has no names")
        if part not in known:
            raise UnknownName("part", part, known)
    return {part: _section(spec, part) for part in (known if parts is None else parts)}


def layouts(spec: ModelSpec) -> dict[str, Layout]:
    """How the file holds each network of `spec`; a tiny autoencoder has no place in it."""
    of_edm = spec.unet.blocks == ADM
    found = {"unet": edm.layout(spec.unet, spec.resolution) if of_edm else unet.layout(spec.unet)}
    if isinstance(spec.conditioning, ClipText):
        encoders = spec.conditioning.encoders
        found |= {f"text_encoder_{i}": clip.layout(encoders, i) for i in range(len(encoders))}
    if isinstance(spec.autoencoder, AutoencoderPlan):
        found["autoencoder"] = autoencoder.layout(spec.autoencoder)
    return found


@lru_cache(maxsize=16)  # building a network, even without weights, takes a good part of a second
def _section(spec: ModelSpec, part: str) -> Section:
    layout = layouts(spec)[part]
    network = meta_networks(spec, ("text" if part.startswith("text_encoder") else part,))[part]
    shapes = {key: tuple(tensor.shape) for key, tensor in network.state_dict().items()}
    return Section(layout.prefix, layout.ignored, places(shapes, layout.rules), shapes)
