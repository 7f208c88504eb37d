"""A model by the folder that training wrote: the zoo's entry that it is built like, with weights of its own."""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from koala.errors import KoalaError
from koala.models.spec import ModelSpec, Pretrained, Recipe
from koala.models.twin import TWIN_PREFIX

CARD = "koala.json"
PIPELINE = "model_index.json"
ADAPTER = "pytorch_lora_weights.safetensors"
FORMAT = 1
_UNET = "unet"
_TYPES = {"base": str, "name": str, "digest": str, "frozen": str, "resolution": int}
_SHOWN = 8  # characters of a digest in a model's name


@dataclass(frozen=True)
class Trained:
    """What `koala.json` says of a folder beside the networks."""

    base: str  # the entry whose topology, conditioning and recipe it has
    name: str
    digest: str  # sha256 of the U-Net's file
    frozen: str  # the entry that text encoders and autoencoder are of
    recipe: Recipe
    resolution: int  # side in pixels
    facts: Mapping[str, Any]  # how it was trained

    @property
    def title(self) -> str:
        """The name with what tells two models of one name apart; that of a small twin says that it is one."""
        twin = self.base.startswith(TWIN_PREFIX) and not self.name.startswith(TWIN_PREFIX)
        return f"{TWIN_PREFIX if twin else ''}{self.name}@{self.digest[:_SHOWN]}"

    def text(self) -> str:
        """The text of `koala.json`."""
        own = {name: value for name, value in asdict(self).items() if name != "facts"}
        return json.dumps({"format": FORMAT, **own, **self.facts}, indent=1, default=str) + "\n"


def is_path(name: str) -> bool:
    """Whether a model's name means a folder: it has a slash, or there is a folder of that name."""
    return "/" in name or Path(name).expanduser().is_dir()


def entry(name: str, get: Callable[[str], ModelSpec]) -> ModelSpec:
    """The model in the folder `name`; `get` finds entries of the zoo."""
    path = Path(name).expanduser()
    trained = read(path)
    base, frozen = get(trained.base), get(trained.frozen)
    return replace(
        base,
        name=trained.title,
        title=f"{trained.name}, trained here",
        autoencoder=frozen.autoencoder,
        recipe=trained.recipe,
        resolution=trained.resolution,
        weights=frozen.weights and Pretrained(frozen.weights.pipeline),
        folder=str(path),
        attached=None,
        source=f"{path}, built like {base.name} ({base.source})",
        notes=f"Trained here; its card is {path / 'README.md'}.",
    )


def read(path: Path) -> Trained:
    """What the folder's `koala.json` says; a `KoalaError` says what to do with a folder that has none."""
    if not path.is_dir():
        raise KoalaError(f"there is no folder {path}; models of the zoo have no slash (`python -m koala models`)")
    if not (path / CARD).is_file():
        raise KoalaError(f"{path} has no {CARD}: {_advice(path)}")
    try:
        found = json.loads((path / CARD).read_text(encoding="utf-8"))
        if (version := found.pop("format")) != FORMAT:
            raise KoalaError(f"{path / CARD} has format {version}; this version reads {FORMAT}")
        values = {name: found.pop(name) for name in (*_TYPES, "recipe")}
        if wrong := [name for name, kind in _TYPES.items() if not isinstance(values[name], kind)]:
            raise TypeError(f"{', '.join(wrong)} of another type")
        if any("/" in values[name] for name in ("base", "frozen")):  # which might be this folder again
            raise ValueError("it is built like a folder, and not like an entry of the zoo")
        recipe: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values["recipe"].items()}
        values["recipe"] = Recipe(**recipe)
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise KoalaError(f"{path / CARD} is damaged: {error}") from error
    return Trained(**values, facts=found)


def _advice(path: Path) -> str:
    if (path / ADAPTER).is_file():
        return f"it is a LoRA adapter, which goes on top of a model (MODEL --lora {path})"
    if (path / "final" / CARD).is_file():
        return f"its model is {path / 'final'}"
    if (path / PIPELINE).is_file() or (path / _UNET).is_dir():
        return f"a diffusers folder goes with the model that it is built like (MODEL --weights {path})"
    return "it holds no model that was trained here"
