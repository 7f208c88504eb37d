"""`python -m koala pairs`."""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import tyro

from koala.commands.encode import progress
from koala.commands.sample import chosen_device, read_prompts
from koala.errors import KoalaError
from koala.harness.cli import stderr_console
from koala.models import zoo

EXAMPLES = (
    "python -m koala pairs sdxl --prompts captions.txt --n 10000 --guidance 8 --out runs/caches/pairs",
    "python -m koala pairs tiny-sdxl --prompts captions.txt --steps 2 --out runs/caches/tiny-pairs",
)


@dataclass(frozen=True)
class Options:
    """Draw pairs of noise and image with a teacher, from which a generator of one step learns to begin with.

    The images stay latents, in a cache as `encode` writes; its folder goes to stdout. The same command again goes on
    where it was stopped. Several GPUs: `accelerate launch -m koala pairs ...`.
    """

    model: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="MODEL")]
    """The teacher (`python -m koala models`)."""
    prompts: Path | None = None
    """A file of prompts, one a line."""
    out: Path | None = None
    """Folder of the cache."""
    n: int = 0
    """Pairs, with one seed after the other; the prompts are gone through again and again. 0: one a prompt."""
    steps: int | None = None
    """Denoising steps; default, as for the next one: the model's recipe."""
    guidance: float | None = None
    """Classifier-free guidance scale."""
    resolution: int = 0
    """Side of the images in pixels; 0: the model's own."""
    weights: str = ""
    """hub, random, a diffusers folder or a checkpoint file; default: hub, or random where none are released."""
    seed: int = 0
    """Seed of the first pair."""
    batch_size: int = 1
    """Images that are drawn together."""
    dtype: str = "auto"
    """fp32, bf16 or fp16; auto: fp16 on a GPU, else fp32."""
    device: str = "auto"
    """cpu, cuda or cuda:N; auto: a GPU for each process if there is one."""


def run(options: Options) -> int:
    """Draw what is missing; the exit code is 130 after Ctrl-C."""
    console = stderr_console()
    for name, least in (("n", 0), ("seed", 0), ("batch_size", 1), ("resolution", 0)):
        if (value := getattr(options, name)) < least:
            raise KoalaError(f"--{name.replace('_', '-')} must be at least {least}, not {value}")
    if options.prompts is None or options.out is None:
        raise KoalaError("give --prompts, a file with one a line, and --out, the folder of the cache")
    spec, prompts = zoo.get(options.model), tuple(read_prompts(options.prompts))
    if not prompts:
        raise KoalaError(f"{options.prompts} holds no prompt")
    side = options.resolution or spec.resolution
    spec.check_side(side)
    given: dict[str, Any] = {"steps": options.steps, "guidance": options.guidance}
    recipe = replace(spec.recipe, **{name: value for name, value in given.items() if value is not None})
    weights, device = options.weights or spec.own_weights, chosen_device(options.device)

    from koala.distill.data.building import build
    from koala.distill.data.pairs import Pairs

    job = Pairs(spec, weights, recipe, prompts, options.n or len(prompts), side, options.seed, options.batch_size)
    if weights == "random":
        console.print("random weights: good for trying things out, and for nothing else")
    if build(job, options.out, device, options.dtype, partial(progress, console)) is not None:
        print(options.out)
    return 0
