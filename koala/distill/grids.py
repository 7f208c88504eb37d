"""Pictures of a model in training, at intervals: the same prompts and seeds each time, side by side on one sheet."""

import io
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from jaxtyping import UInt8
from PIL import Image

from koala.distill.assemble import FROZEN, Models
from koala.distill.batch import Examples
from koala.distill.config import Run
from koala.errors import KoalaError
from koala.harness.files import write_bytes
from koala.models.conditioning import Condition, Conditioner
from koala.models.load import DTYPES, Components, load
from koala.sampling.contact_sheet import Tile, arranged, contact_sheet
from koala.sampling.sampler import Sampler, to_uint8

Pictures: TypeAlias = UInt8[np.ndarray, "n h w 3"]
FOLDER = "samples"
_PROMPTS = 4  # of the data, where none are given
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
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory() as aside:
                tiles = []
                for i, (prompt, image) in enumerate(zip(self._prompts, images, strict=True)):
                    path = Path(aside) / f"{i}.png"
                    Image.fromarray(image).save(path)
                    tiles.append(Tile(path, prompt, note))
                sheet = contact_sheet(arranged(tiles), f"{self._run.name or self._run.student}  ·  step {step}")
        except OSError as error:
            raise KoalaError(f"cannot write the samples of step {step} to {folder}: {error}") from error
        buffer = io.BytesIO()
        sheet.save(buffer, "png")
        path = folder / f"step-{step:06d}.png"
        write_bytes(path, buffer.getvalue())
        return path

    def images(self, unet: UNet2DConditionModel) -> Pictures:
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
    return tuple(found)[:_PROMPTS] or ("",)
