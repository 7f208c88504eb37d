"""Pictures of a model in training, at intervals: the same prompts and seeds each time, side by side on one sheet."""

import io
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image

from koala.distill.assemble import FROZEN, Models
from koala.distill.batch import Examples
from koala.distill.config import Run
from koala.errors import KoalaError
from koala.harness.files import write_bytes
from koala.models.conditioning import Condition, Conditioner
from koala.models.load import DTYPES, Components, load
from koala.models.unet import UNet
from koala.sampling.contact_sheet import Tile, arranged, contact_sheet
from koala.sampling.sampler import Sampler, to_uint8
from koala.types import Latents

Pictures: TypeAlias = UInt8[np.ndarray, "n h w 3"]
Shown: TypeAlias = tuple[np.ndarray, str, str]  # a picture, its prompt and a note
FOLDER = "samples"
PROMPTS = 4  # of the data, where none are given
_LOOKED_AT = 16  # images, for captions that are not empty


class Grids:
    """Draws the sheets of one run. The text encoders are needed once, unless they are trained too."""

    def __init__(self, run: Run, parts: Components, prompts: Sequence[str], trained: Conditioner | None = None):
        self._run, self._prompts, self._trained = run, tuple(prompts), trained
        self._condition = None if trained else Sampler(parts).encode(self._prompts)
        self._parts = replace(parts, conditioner=trained)

    def write(self, images: Pictures, step: int, folder: Path) -> Path:
        """The sheet of the pictures after `step` steps, written into `folder`."""
        note = f"seed 0  ·  step {step}"
        shown = [(image, prompt, note) for prompt, image in zip(self._prompts, images, strict=True)]
        return self._sheet([shown], step, folder / f"step-{step:06d}.png")

    def write_scores(self, seen: Mapping[str, Latents], captions: Sequence[str], step: int, folder: Path) -> Path:
        """The sheet of what DMD2's networks see in the same images: a row an image, a column a network."""
        sampler = Sampler(self._parts)
        pictures = {name: to_uint8(sampler.decode(latents.float().cpu())).numpy() for name, latents in seen.items()}
        rows = [[(found[row], text, name) for name, found in pictures.items()] for row, text in enumerate(captions)]
        return self._sheet(rows, step, folder / f"scores-{step:06d}.png")

    def _sheet(self, rows: Sequence[Sequence[Shown]], step: int, path: Path) -> Path:
        """Write rows of pictures; a single one is broken into several."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory() as aside:
                tiles = [
                    [_tile(Path(aside) / f"{y}-{x}.png", *shown) for x, shown in enumerate(row)]
                    for y, row in enumerate(rows)
                ]
                tiles = arranged(tiles[0]) if len(tiles) == 1 else tiles
                sheet = contact_sheet(tiles, f"{self._run.name or self._run.student}  ·  step {step}")
        except OSError as error:
            raise KoalaError(f"cannot write the samples of step {step} to {path.parent}: {error}") from error
        buffer = io.BytesIO()
        sheet.save(buffer, "png")
        write_bytes(path, buffer.getvalue())
        return path

    def images(self, unet: UNet) -> Pictures:
        """A picture of each prompt, one after the other, from seed 0; the U-Net and torch's generators stay as is."""
        device, half = unet.device, DTYPES[self._run.precision]
        sampler = Sampler(replace(self._parts, unet=unet, device=device, dtype=torch.float32))
        condition = self._condition or sampler.encode(self._prompts)
        training = unet.training
        unet.eval()
        try:
            with torch.autocast(device.type, half, enabled=half != torch.float32):
                latents = [
                    sampler.denoise(_rows(condition, i, len(self._prompts)).map(lambda f: f.to(device)), [0])
                    for i in range(len(self._prompts))
                ]
            # not in half precision: SDXL's own autoencoder draws black pictures in fp16
            return np.concatenate([to_uint8(sampler.decode(one)).numpy() for one in latents])
        finally:
            unet.train(training)


def _tile(path: Path, image: np.ndarray, prompt: str, note: str) -> Tile:
    Image.fromarray(image).save(path)
    return Tile(path, prompt, note)


def _rows(condition: Condition, i: int, n: int) -> Condition:
    """Row i, below its unconditional row where there is one."""
    return condition.map(lambda field: field[i::n])


def open_grids(
    run: Run, models: Models, examples: Examples, say: Callable[[str], object], trained: Conditioner | None = None
) -> Grids | None:
    """The sheets of a run; None where it wants none, or where what draws them is not here, which is said."""
    if not run.sample_every:
        return None
    try:
        frozen = load(models.frozen, "cpu", "fp32", run.teacher_weights, FROZEN)
    except KoalaError as error:
        say(f"no sample grids: {error}")
        return None
    prompts = run.sample_prompts or captions_of(examples)
    return Grids(run, replace(frozen, spec=models.student), prompts, trained)


def track(trackers: Sequence[Any], images: Pictures, step: int) -> None:
    """Give the pictures to those of accelerate's trackers that take some."""
    for tracker in trackers:
        if hasattr(tracker, "log_images"):
            layout = {"dataformats": "NHWC"} if tracker.name == "tensorboard" else {}
            tracker.log_images({"samples": images}, step=step, **layout)


def captions_of(examples: Examples) -> tuple[str, ...]:
    """Some captions of the first images, each once."""
    first = range(min(_LOOKED_AT, len(examples)))
    found = dict.fromkeys(caption for caption in examples.batch(first, first).captions if caption)
    return tuple(found)[:PROMPTS] or ("",)
