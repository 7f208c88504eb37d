"""What a run leaves: a folder that diffusers loads as it is, and that every command here takes by its path."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor

from koala import __version__
from koala.distill import lora
from koala.distill.assemble import FROZEN, Assembly, Models
from koala.distill.config import FILE, Run, read_run, write_run
from koala.distill.model_card import LOSSES, Ending, model_card
from koala.errors import KoalaError
from koala.harness.files import sha256_of
from koala.models import zoo
from koala.models.load import load
from koala.models.networks import meta_networks
from koala.models.new_folder import new_folder
from koala.models.spec import ModelSpec
from koala.models.unet import UNet
from koala.models.zoo import local
from koala.models.zoo.local import CARD, PIPELINE, Trained
from koala.sampling.pipelines import diffusers_pipeline

FOLDER = "final"
README = "README.md"

Curve = Callable[[Path], object]


def write_final(
    run: Run, made: Assembly, weights: Mapping[str, Tensor], ending: Ending, curve: Curve | None = None
) -> Path:
    """Write OUT/final and return it; an older one of fewer steps is kept beside it under another name.

    `weights` are the U-Net's; adapters are taken from the networks as they are. The folder holds a diffusers pipeline,
    or the U-Net alone where the other networks are not here, or the adapters of a LoRA run; beside them `koala.json`,
    `run.json`, the model card and the loss curves, which `curve` draws into a file.
    """
    out = run.folder / FOLDER
    set_aside(out)
    with new_folder(out) as folder:
        missing = ""
        if run.lora_rank:
            lora.save(folder, made.unet, made.conditioner.encoders if made.conditioner else ())
        else:
            missing = _write_networks(folder, run, made.models, unet_of(made.models.student, weights))
            (folder / CARD).write_text(_trained(folder, run, made.models, ending).text(), encoding="utf-8")
        if curve:
            curve(folder / LOSSES)
        drawn = (folder / LOSSES).is_file()
        write_run(replace(run, accumulation=1) if run.global_batch else run, folder / FILE)
        models = made.models
        card = model_card(run, models.student, models.teacher, ending, missing, drawn)
        (folder / README).write_text(card, encoding="utf-8")
    return out


def finished(run: Run) -> Path | None:
    """The final folder of a run that has come to its end."""
    out = run.folder / FOLDER
    if not (out / FILE).is_file() or read_run(out / FILE).steps < run.steps:
        return None
    return out


def set_aside(out: Path) -> None:
    """Rename an older final folder by its number of steps; a folder that is none is left for an error to name."""
    if (out / FILE).is_file():
        older = out.with_name(f"{out.name}-{read_run(out / FILE).steps:06d}")
        if older.exists():
            raise KoalaError(f"{out} and {older} are in the way of this run's result; rename or remove one of them")
        out.replace(older)


def unet_of(spec: ModelSpec, weights: Mapping[str, Tensor]) -> UNet:
    """The U-Net with these weights, which are not copied, on the CPU in fp32."""
    unet = meta_networks(spec, ("unet",))["unet"]
    unet.load_state_dict({name: tensor.to("cpu", torch.float32) for name, tensor in weights.items()}, assign=True)
    assert isinstance(unet, UNet)
    return unet.eval()


def _write_networks(folder: Path, run: Run, models: Models, unet: UNet) -> str:
    """Write what is here of the pipeline; why it is only the U-Net if it is."""
    whole, missing = None, ""
    try:
        frozen = load(models.frozen, "cpu", "fp32", run.teacher_weights, FROZEN)
        spec = replace(models.student, autoencoder=frozen.spec.autoencoder)
        whole = diffusers_pipeline(replace(frozen, spec=spec, unet=unet))
    except KoalaError as error:
        missing = str(error)
    try:
        (whole or unet).save_pretrained(folder)
    except SafetensorError as error:  # a full disk, as safetensors tells it
        raise KoalaError(f"cannot write {run.folder / FOLDER}: {error}") from error
    return missing


def _trained(folder: Path, run: Run, models: Models, ending: Ending) -> Trained:
    return Trained(
        base=_entry(run.student, "base"),
        name=run.folder.name,
        digest=unet_digest(folder),
        frozen=_entry(run.teacher or run.student, "frozen"),
        recipe=models.student.recipe,
        resolution=models.student.resolution,
        facts={"run": run.name, **asdict(ending), "koala": __version__},
    )


def _entry(model: str, field: str) -> str:
    """The zoo's name behind a model; a folder knows its own."""
    return model if zoo.known(model) else str(getattr(local.read(Path(model)), field))


def unet_digest(folder: Path) -> str:
    """The sha256 of the file of the U-Net in a pipeline's folder or in its own; of those of its shards in order."""
    place = folder / "unet" if (folder / PIPELINE).is_file() else folder
    files = [sha256_of(path) for path in sorted(place.glob("*.safetensors"))]
    assert files, f"{place} holds no weights"
    return files[0] if len(files) == 1 else hashlib.sha256("".join(files).encode()).hexdigest()
