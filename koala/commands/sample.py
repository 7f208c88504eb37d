"""`python -m koala sample`."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from koala.errors import KoalaError
from koala.harness import environment
from koala.harness.cli import stderr_console
from koala.harness.files import read_text
from koala.harness.nvml import Nvml
from koala.harness.options import Ranges
from koala.models import class_names, zoo
from koala.models.spec import ClassLabels, ModelSpec, Recipe
from koala.sampling import profiles

if TYPE_CHECKING:
    from koala.sampling.job import Picture

DEFAULT_FOLDER = Path("runs/samples")
EXAMPLES = (
    'python -m koala sample koala-lightning-700m "a photo of a red apple" --seed 7 --n 4',
    "python -m koala sample koala-700m --prompts prompts.txt --profile low-vram --out runs/samples/prompts",
    "python -m koala sample dmd2-imagenet64 --classes 207,0-9 --n 4 --weights pytorch_model.bin",
    'python -m koala sample tiny-koala-700m "noise, to try it out without any download" --steps 2',
)


@dataclass(frozen=True)
class Options:
    """Draw images into a folder: PNGs that say how they were made, a manifest and a contact sheet.

    The paths of new images go to stdout. The same command again draws only what is missing; an image that was drawn
    with other settings is never replaced.
    """

    model: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="MODEL")]
    """Model of the zoo (`python -m koala models`), or the folder of one that was trained here."""
    prompt: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="[PROMPT...]")] = ()
    """What to draw."""
    prompts: Path | None = None
    """File of more prompts, one a line, UTF-8."""
    classes: Ranges = ()
    """Numbers of classes, in the place of prompts, of a model that draws classes: 207 or 0-9,207."""
    seed: int = 0
    """Seed of the first image of each prompt; the others follow it."""
    n: int = 1
    """Images per prompt."""
    out: Path | None = None
    """Folder of the images; default: runs/samples/MODEL."""
    weights: str = ""
    """hub, random, a diffusers folder or a checkpoint file; default: hub, or random where none are released, or the
    folder of a model that was trained here."""
    profile: str = profiles.EAGER.name
    """Speed and memory profile (`python -m koala profiles`), or several joined by +."""
    steps: int | None = None
    """Denoising steps; default, as for the next three: the model's recipe."""
    guidance: float | None = None
    """Classifier-free guidance scale; up to 1 there is none."""
    scheduler: str = ""
    """ddim, dpm++, euler, euler-ancestral, lcm or pndm; of EDM's models euler, heun or lcm."""
    negative: str = "default"
    """Negative prompt; none: without one."""
    resolution: int | None = None
    """Side of a square image in pixels; default: the model's own."""
    height: int | None = None
    """Pixels; in the place of --resolution."""
    width: int | None = None
    """Pixels; in the place of --resolution."""
    batch_size: int = 1
    """Images that are drawn together; changes an image by no more than rounding."""
    dtype: str = "auto"
    """fp32, bf16 or fp16; auto: fp16 on a GPU, else fp32."""
    device: str = "auto"
    """cpu, cuda or cuda:N; auto: a GPU if there is one."""
    lora: Path | None = None
    """LoRA adapter, fused into the weights."""
    lora_scale: float = 1.0
    """Strength of the adapter."""
    no_difference: bool = False
    """Do not draw the first image with the eager profile too, to measure how far the profile's image is from it."""


def run(options: Options) -> int:
    """Draw what is missing; the exit code is 130 after Ctrl-C."""
    console = stderr_console()
    spec = zoo.get(options.model)
    profile = profiles.get(options.profile)
    recipe = chosen_recipe(spec.recipe, options)
    pictures = chosen_pictures(spec, options)
    height, width = chosen_size(spec, options)
    device = chosen_device(options.device)
    weights = options.weights or spec.own_weights
    if recipe.negative and not recipe.guided and options.negative != "default":
        console.print(f"the negative prompt has no effect: {spec.name} is run without guidance ({recipe.guidance:g})")
    if weights == "random":
        why = "" if options.weights else f" ({spec.name} has no released ones)"
        console.print(f"random weights{why}: the images will be noise")

    if options.classes:
        for line in described(spec, options.classes):
            console.print(line)

    from koala.models.weights.lora import Adapter  # torch, which the mistakes above need not wait for
    from koala.sampling.filling import fill
    from koala.sampling.gallery import Gallery
    from koala.sampling.job import Settings

    dtype = options.dtype if options.dtype != "auto" else ("fp32" if device == "cpu" else "fp16")
    adapters = (Adapter(options.lora, options.lora_scale),) if options.lora else ()
    settings = Settings(spec, recipe, weights, profile, device, dtype, height, width, adapters)
    settings.check()
    with Gallery(options.out or DEFAULT_FOLDER / (spec.name if spec.folder else options.model)) as gallery:
        return fill(gallery, settings, pictures, options.batch_size, not options.no_difference, console)


def chosen_recipe(recipe: Recipe, options: Options) -> Recipe:
    """The model's recipe with the flags that were given."""
    if options.guidance is not None and not 0 <= options.guidance < float("inf"):
        raise KoalaError(f"--guidance must be 0 or more, not {options.guidance:g}")
    given: dict[str, Any] = {
        "steps": options.steps,
        "guidance": options.guidance,
        "scheduler": options.scheduler or None,
    }
    if options.negative != "default":
        recipe = replace(recipe, negative=None if options.negative == "none" else options.negative)
    return replace(recipe, **{name: value for name, value in given.items() if value is not None})


def chosen_pictures(spec: ModelSpec, options: Options) -> "list[Picture]":
    """Every prompt with each of its seeds; a prompt that was given twice counts once."""
    for name, least in (("n", 1), ("batch_size", 1), ("seed", 0)):
        if (value := getattr(options, name)) < least:
            raise KoalaError(f"--{name.replace('_', '-')} must be at least {least}, not {value}")
    if options.seed + options.n > 2**63:
        raise KoalaError(f"seeds end below 2^63, and --seed {options.seed} --n {options.n} goes beyond")
    prompts = chosen_prompts(spec, options)
    for prompt in prompts:
        try:
            prompt.encode()
        except UnicodeEncodeError as error:
            raise KoalaError(f"this prompt is not valid UTF-8: {prompt!r}") from error
    from koala.sampling.job import Picture

    return [Picture(prompt, seed) for prompt in prompts for seed in range(options.seed, options.seed + options.n)]


def chosen_prompts(spec: ModelSpec, options: Options) -> list[str]:
    """What to draw, each once: prompts, or the names of classes."""
    plan = spec.conditioning
    prompts = list(dict.fromkeys((*options.prompt, *(read_prompts(options.prompts) if options.prompts else ()))))
    if not isinstance(plan, ClassLabels):
        if options.classes:
            raise KoalaError(f"{spec.name} draws prompts; --classes is for models of classes, such as dmd2-imagenet64")
        if not prompts:
            raise KoalaError('there is nothing to draw: give a prompt, "like this", or a file of them with --prompts')
        return prompts
    if options.classes and prompts:
        raise KoalaError("give --classes, or their names as prompts; not both")
    if unknown := [prompt for prompt in prompts if prompt not in plan.names]:
        raise KoalaError(f"{spec.name} draws classes, and {unknown[0]!r} is none of them: give numbers by --classes")
    numbers = dict.fromkeys(number for numbers in options.classes for number in numbers[: len(plan.names) + 1])
    if any(numbers[-1] >= len(plan.names) for numbers in options.classes):
        raise KoalaError(f"the classes of {spec.name} have the numbers 0 to {len(plan.names) - 1}")
    if not numbers and not prompts:
        raise KoalaError("there is nothing to draw: give numbers of classes, as --classes 207 or --classes 0-9")
    return prompts or [plan.names[number] for number in numbers]


def described(spec: ModelSpec, classes: Sequence[range]) -> Iterator[str]:
    """A line for each class that is known by more than its number."""
    dataset = spec.conditioning.dataset if isinstance(spec.conditioning, ClassLabels) else ""
    for number in dict.fromkeys(number for numbers in classes for number in numbers):
        if words := class_names.shown(dataset, number):
            yield f"class {number}: {words}"


def read_prompts(path: Path) -> list[str]:
    """The lines of a UTF-8 file that are not blank."""
    return [line.strip() for line in read_text(path).split("\n") if line.strip()]


def chosen_size(spec: ModelSpec, options: Options) -> tuple[int, int]:
    """Height and width in pixels."""
    if options.resolution is not None and (options.height is not None or options.width is not None):
        raise KoalaError("give --resolution, or --height and --width; not both")
    side = spec.resolution if options.resolution is None else options.resolution
    return (
        side if options.height is None else options.height,
        side if options.width is None else options.width,
    )


def chosen_device(name: str) -> str:
    """`name`, which must be here; for auto the GPU, or the CPU where there is none."""
    if name == "auto":
        return "cuda" if environment.torch_cuda_version() and Nvml().count() else "cpu"
    environment.device_facts(name)
    return name
