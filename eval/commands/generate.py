"""`python -m eval generate`."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from koala.errors import KoalaError
from koala.harness.cli import INTERRUPTED, stderr_console
from koala.harness.options import Floats, Ints, Names

if TYPE_CHECKING:
    from rich.console import Console

    from eval.generation.processes import Processes
    from eval.suite import Suite

DEFAULT_OUT = Path("runs/eval/images")
EXAMPLES = (
    "python -m eval generate --models koala-700m,sdxl --suite koala-core",
    "python -m eval generate --models koala-lightning-700m --suite koala-core --steps 1,2,4,8,10,25",
    "python -m eval generate --models sdxl --suite geneval --images-per-prompt 4 --batch-size 4",
    "python -m eval generate --model runs/train/koala-700m-base/final --suite my-prompts.txt",
    "python -m eval generate --models someone-elses --suite geneval --from-images outputs/",
)


@dataclass(frozen=True)
class Options:
    """Draw a suite's images with models, one gallery for each model and combination of settings.

    The folders of the galleries go to stdout, ready for `python -m eval score`. The same command again draws only what
    is missing. Under `accelerate launch -m eval generate ...` all processes share the work, and images stay the same.
    """

    suite: str = ""
    """Prompt suite (`python -m eval suites`), or a file of your own: .txt (a prompt a line), .csv, .jsonl, .toml."""
    models: Annotated[Names, tyro.conf.arg(aliases=["--model"])] = ()
    """Models of the zoo, a pattern such as 'koala-*', or folders of models that were trained here."""
    images_per_prompt: int = 1
    """Images of each prompt, with one seed after the other."""
    seed: int = 0
    """Seed of the first image of each prompt."""
    steps: Ints = ()
    """Denoising steps, each a gallery of its own; default, as for the next two: the model's recipe."""
    guidance: Floats = ()
    """Classifier-free guidance scales; up to 1 there is none."""
    resolutions: Ints = ()
    """Sides of the square images in pixels."""
    limit: int | None = None
    """Only so many prompts, spread over the suite; these go to folders of their own."""
    profile: str = "eager"
    """Speed and memory profile (`python -m koala profiles`), or several joined by +."""
    weights: str = ""
    """hub, random, a diffusers folder or a checkpoint file; default: hub, or random where none were released."""
    batch_size: int = 1
    """Images that are drawn together; changes an image by no more than rounding."""
    dtype: str = "auto"
    """fp32, bf16 or fp16; auto: fp16 on a GPU, else fp32."""
    device: str = "auto"
    """cpu, cuda or cuda:N; auto: a GPU if there is one."""
    from_images: Path | None = None
    """Draw nothing: take the images that were made elsewhere for these prompts (named as the suite's own tools do, by
    place, or by a metadata.csv with file_name and text) into the gallery of the one name in --models."""
    out: Path = DEFAULT_OUT
    """Folder of the galleries: OUT/SUITE/MODEL."""


def run(options: Options) -> int:
    """Fill the galleries; the exit code is 130 after Ctrl-C."""
    from eval import suites

    if not options.suite:
        raise KoalaError(f"--suite says which prompts: {', '.join(suites.names())}, or a file of yours")
    if not options.models:
        raise KoalaError("--models says who draws, as in --models koala-700m,sdxl (`python -m koala models`)")
    suite = suites.load(options.suite)
    folder = options.out / suite.name
    if options.limit is not None:
        suite, folder = suites.limited(suite, options.limit), options.out / f"{suite.name}-limit{options.limit}"
    console = stderr_console()
    if options.from_images:
        return _take(options, suite, folder, console)
    from eval.generation.processes import processes
    from koala.commands.sample import chosen_device

    with processes(chosen_device(options.device)) as us:
        try:
            galleries = _draw(options, suite, folder, us, console)
        except KeyboardInterrupt:
            if us.first:
                console.print(f"interrupted: what was drawn is kept in {folder}; the same command goes on from there")
            return INTERRUPTED
        if us.first:
            print(*galleries, sep="\n")
    return 0


def _draw(options: Options, suite: "Suite", folder: Path, us: "Processes", console: "Console") -> list[Path]:
    from rich.console import Console

    from eval.generation.fill import Job, fill
    from eval.generation.pictures import pictures
    from eval.generation.variants import Axes, variants
    from koala.models import zoo

    console = console if us.first else Console(quiet=True)
    axes = Axes(
        zoo.matching(options.models),
        options.steps,
        options.guidance,
        options.resolutions,
        options.profile,
        options.weights,
        options.dtype,
    )
    todo = pictures(suite, options.images_per_prompt, options.seed)
    with us.first_before_others():  # gigabytes of weights are hashed once, and remembered
        wanted = variants(axes, us.device, console.print)
    if any(variant.settings.weights == "random" for variant in wanted):
        console.print("random weights: the images will be noise")
    return fill(Job(wanted, todo, options.batch_size, folder), us, console)


def _take(options: Options, suite: "Suite", folder: Path, console: "Console") -> int:
    from eval.generation.elsewhere import take

    if len(options.models) != 1:
        raise KoalaError("--from-images takes the images of one model: say its name in --models")
    assert options.from_images
    print(take(options.from_images, suite, folder / options.models[0], console))
    return 0
