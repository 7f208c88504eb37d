"""Folders as training leaves them, of small random models."""

from pathlib import Path

from koala.models import zoo
from koala.models.load import load
from koala.models.zoo.local import CARD, Trained
from koala.sampling.pipelines import diffusers_pipeline


def trained_folder(path: Path, base: str = "tiny-koala-700m", seed: int = 5, whole: bool = True, **card) -> Path:
    """A model that differs from the random one by its seed, or its U-Net alone."""
    spec = zoo.get(base)
    components = load(spec, "cpu", seed=seed)
    if whole:
        diffusers_pipeline(components).save_pretrained(path)
    else:
        components.unet.save_pretrained(path)
    known = {"base": base, "name": "mine", "digest": "0123456789abcdef", "frozen": base, "recipe": spec.recipe}
    trained = Trained(**{**known, "resolution": spec.resolution, "facts": {"steps": 6}, **card})
    (path / CARD).write_text(trained.text())
    return path
