"""`python -m eval toyclip`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from eval.weights.option import Paths, by_name
from koala.errors import KoalaError
from koala.harness.cli import stderr_console
from koala.harness.options import Ints, Names

EXAMPLES = (
    "python -m eval toyclip runs/data/emoji/train --beside runs/data/emoji/held-out --out runs/toyclip.safetensors",
    "python -m eval toyclip photos/ --out photos.safetensors --captions text --sides 64 --steps 300",
)


@dataclass(frozen=True)
class Options:
    """Train a text-image score on captioned images: two small heads over EfficientNet-Lite0 and MiniLM, which stay.

    It judges images of the domain that it was trained on and no others. The table says how often it is right about
    images and captions that it never saw, which are those of --beside.
    """

    paths: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="FOLDER...")]
    """Folders to train on: images, and metadata.jsonl or .csv with file_name and text."""
    out: Path
    """The file to write, FILE.safetensors."""
    beside: Annotated[tuple[Path, ...], tyro.conf.UseAppendAction] = ()
    """A folder that is not trained on, whose captions an image is told from all the same; may be given again."""
    captions: Names = ()
    """Columns to learn captions from; default: text, and rich where there is one. An image is asked for by its text."""
    sides: Ints = (32, 64)
    """Pixels to which images are shrunk in training, beside being taken whole: what small images are judged by."""
    steps: int = 600
    """Steps of training."""
    seed: int = 0
    """What the heads begin with, and the order of the images."""
    device: str = "cpu"
    """Where features are computed: cpu, cuda or cuda:N. The heads are trained on the CPU."""
    batch_size: int = 32
    """Images that go through the network together."""
    workers: int | None = None
    """Processes that decode images; 0: this one. Default: one per processor but one."""
    weights: Paths = ()
    """Where a weight file is, if nowhere it would be found (`python -m eval weights`)."""


def run(options: Options) -> int:
    """Train, write the file, and print how often it is right; the file's name and hash go to stderr."""
    _refuse(options)
    import torch

    from eval.networks import Networks
    from eval.progress import ScoreProgress
    from eval.reader import default_workers
    from eval.toyclip import head_file
    from eval.toyclip.train import Task, train
    from eval.weights import Weights
    from koala.harness.environment import device_facts
    from koala.harness.files import sha256_of

    head_file.refuse_existing(options.out)
    device_facts(options.device)
    task = Task(options.paths, options.beside, options.captions, options.sides, options.steps, options.seed)
    networks = Networks(Weights(by_name(options.weights)), torch.device(options.device))
    workers = default_workers() if options.workers is None else options.workers
    console = stderr_console()
    with ScoreProgress(console) as bar:
        heads, about = train(task, networks, options.batch_size, workers, bar)
    head_file.write(options.out, heads, about)
    print(_table(about.check))
    use = f"--weights {head_file.NAME}={options.out}"
    console.print(
        f"{options.out}: sha256 {sha256_of(options.out)}; `python -m eval score` takes it by {use}", markup=False
    )
    return 0


def _refuse(options: Options) -> None:
    """A `KoalaError` for numbers that cannot be."""
    if not options.paths:
        raise KoalaError(f"say what to train on: folders of captioned images, as in `{EXAMPLES[0]}`")
    for name in ("steps", "batch_size"):
        if getattr(options, name) < 1:
            raise KoalaError(f"--{name.replace('_', '-')} must be at least 1, not {getattr(options, name)}")
    if small := [side for side in options.sides if side < 1]:
        raise KoalaError(f"--sides {small[0]}: an image has at least one pixel")


def _table(check: Sequence[Mapping[str, Any]]) -> str:
    """The shares of right answers, in percent."""
    import pandas as pd

    from eval.toyclip.features import WHOLE
    from koala.harness.tables import decimals, to_markdown

    whole = {WHOLE: "as they are"}
    frame = pd.DataFrame([{**line, "side": whole.get(line["side"], f"{line['side']} px")} for line in check])
    shares = [name for name in frame.columns if name not in ("images", "side", "n")]
    frame[shares] *= 100
    named = frame.rename(columns={"side": "shown at"} | {name: f"{name} [%]" for name in shares})
    return to_markdown(named, {f"{name} [%]": decimals(1) for name in shares}) + (
        "\n\nShares of right answers: text to image among all images, image to text among all short captions; a part,"
        " as\nrole, among the captions that differ in it alone."
    )
