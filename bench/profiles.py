"""The profiles a case can run under: the sampler's own, and stock diffusers beside them. Imports no torch."""

from typing import Any

from koala.errors import KoalaError, UnknownName
from koala.models.spec import ClipText, ModelSpec
from koala.sampling import profiles
from koala.sampling.profiles import JOIN, PROFILES, Profile


def _no_pipeline(spec: ModelSpec, device: Any, dtype: str) -> str | None:
    if isinstance(spec.conditioning, ClipText) and spec.autoencoder is not None:
        return None
    return f"diffusers has no pipeline for {spec.name}, which has no CLIP text encoders or no autoencoder"


DIFFUSERS = Profile(
    "diffusers-eager",
    saves="nothing: the model through diffusers' own pipeline, which ours is held against",
    costs="what stock diffusers costs",
    obstacle=_no_pipeline,
)
ALONE = (DIFFUSERS.name, *PROFILES)


def get(name: str) -> Profile:
    """The profile called `name`; several of the sampler's own may be joined by `+`."""
    parts = [part.strip() for part in name.split(JOIN)]
    for part in parts:
        if part not in ALONE:
            raise UnknownName("profile", part, ALONE)
    if parts == [DIFFUSERS.name]:
        return DIFFUSERS
    if DIFFUSERS.name in parts:
        raise KoalaError(f"{DIFFUSERS.name} is diffusers as it comes: it goes together with no other profile")
    return profiles.get(name)
