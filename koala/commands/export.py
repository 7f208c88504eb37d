"""`python -m koala export`."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from koala.errors import KoalaError
from koala.models import zoo
from koala.models.new_folder import new_folder

if TYPE_CHECKING:
    from koala.models.load import Components

EXAMPLES = (
    "python -m koala export koala-700m --out koala-700m.safetensors",
    "python -m koala export koala-1b --weights runs/my-student --out my-student.safetensors --dtype bf16",
    "python -m koala export tiny-sdxl --weights random --format diffusers --out tiny-sdxl",
)


@dataclass(frozen=True)
class Options:
    """Write a model for other programs: one file (ComfyUI, diffusers' from_single_file) or a diffusers folder.

    diffusers reads a compressed U-Net out of one file only with `config=FOLDER`, a folder that `--format diffusers`
    writes. An existing file or folder is never replaced.
    """

    model: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="MODEL")]
    """Model of the zoo (`python -m koala models`), or the folder of one that was trained here."""
    out: Path
    """File or folder to write."""
    format: Literal["single-file", "diffusers"] = "single-file"
    """single-file: safetensors with the original key names; diffusers: a pipeline folder."""
    weights: str = "hub"
    """hub (the folder itself of a model that was trained here), a diffusers folder, a checkpoint file, or random."""
    dtype: str = "fp16"
    """fp32, bf16 or fp16, of every network."""


def run(options: Options) -> int:
    """Load the model on the CPU and write it."""
    spec = zoo.get(options.model)
    if options.out.exists():
        raise KoalaError(f"{options.out} exists; choose another name or remove it")
    from torch import nn  # which a wrong name need not wait for

    from koala.models.load import DTYPES, load

    components = load(spec, "cpu", options.dtype, options.weights)
    for network in components.networks:
        nn.Module.to(network, dtype=DTYPES[options.dtype])  # an autoencoder that decodes in fp32 is loaded so
    _FORMATS[options.format](components, options.out)
    print(options.out)
    return 0


def write_file(components: "Components", out: Path) -> None:
    """Write the one-file checkpoint `out`."""
    from koala.models import single_file

    text = components.conditioner.networks if components.conditioner else ()
    networks = {"unet": components.unet, "autoencoder": components.autoencoder}
    networks |= {f"text_encoder_{i}": encoder for i, encoder in enumerate(text)}
    loaded = {part: network for part, network in networks.items() if network is not None}
    single_file.write(out, loaded, components.spec)


def write_folder(components: "Components", out: Path) -> None:
    """Write the folder `out` as diffusers' own pipeline does; it is written aside and renamed."""
    from koala.sampling.pipelines import diffusers_pipeline

    pipeline = diffusers_pipeline(components)
    with new_folder(out) as folder:
        pipeline.save_pretrained(folder)


_FORMATS: dict[str, Callable[["Components", Path], None]] = {"single-file": write_file, "diffusers": write_folder}
