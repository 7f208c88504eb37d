"""The weight files that metrics want, each with what is known of the standard one.

One name is one file. `minilm` is the encoder's model.safetensors and `minilm-tokenizer` its tokenizer.json (which holds
the vocabulary too): an extractor that reads both lists both in `weights` and gets a path for each; what config.json
would say (BERT, 6 layers of width 384, 12 heads, 1536 inside) is the extractor's own to write down.

`clip/MODEL/PRETRAINED` is any model and tag of open_clip, as `clip/ViT-B-32/openai`.
"""

from pathlib import PurePosixPath

from eval.weights.entries import answers, detectors, features, judges, trained
from eval.weights.file import WeightFile
from koala.errors import KoalaError, UnknownName
from koala.models.spec import HubFile

CLIP = "clip/"
_CLIP_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")  # in the order that open_clip tries

FILES = {file.name: file for module in (features, judges, answers, detectors, trained) for file in module.FILES}

_CLIP_HASHES = {  # repository: sha256 and bytes of its open_clip_model.safetensors
    "timm/vit_base_patch32_clip_224.openai": (
        "e6d1bd7789aa45192b3bf90570a789b478bae1b74ebcce7eddd908e83a2b7c31",
        605_143_284,
    ),
    "timm/vit_large_patch14_clip_224.openai": (
        "9ce2e8a8ebfff3793d7d375ad6d3c35cb9aebf3de7ace0fc7308accab7cd207e",
        1_710_517_724,
    ),
    "timm/vit_large_patch14_clip_336.openai": (
        "fbc415c3d0d7b79faed8f5ccfb740c32b7c4f5ffe7283b851f89c6231c01a8e0",
        1_711_828_444,
    ),
    "laion/CLIP-ViT-B-32-laion2B-s34B-b79K": (
        "ac4f8c4b88af6d963118cbf40ad93176d092abbedfcb752601ae1866352656e6",
        605_143_316,
    ),
}


# As the cards of the repositories and openai/CLIP's LICENSE say; None where nobody has looked.
_OPENAI = "MIT (openai/CLIP; its repository on the hub says Apache-2.0)"
_CLIP_LICENCES = {
    "timm/vit_base_patch32_clip_224.openai": _OPENAI,
    "timm/vit_large_patch14_clip_224.openai": _OPENAI,
    "timm/vit_large_patch14_clip_336.openai": "MIT (openai/CLIP)",
    "laion/CLIP-ViT-B-32-laion2B-s34B-b79K": "MIT",
    "laion/CLIP-ViT-g-14-laion2B-s12B-b42K": "MIT",
    "laion/CLIP-ViT-g-14-laion2B-s34B-b88K": "MIT",
}


def get(name: str) -> WeightFile:
    """The file called `name`; `UnknownName` lists those there are."""
    if name.startswith(CLIP):
        return _clip(name)
    if name not in FILES:
        raise UnknownName("weight file", name, [*FILES, f"{CLIP}MODEL/PRETRAINED"])
    return FILES[name]


def _clip(name: str) -> WeightFile:
    """The weights of a model and tag of open_clip."""
    from open_clip import get_pretrained_cfg, list_models, list_pretrained_tags_by_model

    model, _, tag = name.removeprefix(CLIP).partition("/")
    if not (config := get_pretrained_cfg(model, tag)):
        tags = list_pretrained_tags_by_model(model)
        known = [f"{CLIP}{model}/{tag}" for tag in tags] or [f"{CLIP}{model}/PRETRAINED" for model in list_models()]
        raise UnknownName("weight file", name, known)
    if not config["hf_hub"]:
        raise KoalaError(f"open_clip names no hub repository for {name}")
    path = PurePosixPath(config["hf_hub"])
    whole = config["hf_hub"].endswith("/")
    repository = str(path if whole else path.parent)
    file, *also = _CLIP_FILES if whole else (path.with_suffix(".safetensors").name, path.name)
    sha256, size_bytes = _CLIP_HASHES.get(repository, (None, None))
    return WeightFile(
        name=name,
        file=file,
        what=f"CLIP {model}, {tag}",
        licence=_CLIP_LICENCES.get(repository),
        sha256=sha256,
        size_bytes=size_bytes,
        hub=HubFile(repository, file),
        also=tuple(also),
    )
