"""CLIP models of open-clip-torch, any of its tags: features of images and of texts, as they leave the projections.

`clip:MODEL/PRETRAINED`, as `clip:ViT-B-32/openai`. The network is built as the tag was trained (openai's need
quick_gelu) and filled tensor by tensor from one weight file, so that a model never lies in memory twice.
"""

import difflib
import logging
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn

from eval.feed import Preparation
from eval.preparation import CenterCrop, Normalise, PilResize
from koala.errors import KoalaError, UnknownName
from koala.models.weights.checkpoint import Checkpoint, Renamed
from koala.models.weights.fill import fit
from koala.types import Features, FloatImages

_MAPPED_BYTES = 2**28
PRECISIONS = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}


class Clip:
    """Both towers of one tag; LayerNorms stay in fp32 where the other weights are bf16 or fp16."""

    def __init__(self, model: str, pretrained: str):
        self.model, self.pretrained = model, pretrained
        self.weights: tuple[str, ...] = (f"clip/{model}/{pretrained}",)
        self.dim: int = _config(model)["embed_dim"]

    def load(self, files: Mapping[str, Path], device: torch.device, dtype: torch.dtype) -> None:
        """Fill the network from the tag's file; `KoalaError` where the file is another network's."""
        self._device, self._input_dtype = device, dtype
        self._network = _filled(_network(self.model, self.pretrained, dtype), files[self.weights[0]], device)

    def features(self, images: FloatImages) -> Features:
        """fp32 image features, not normalised."""
        return self._network.encode_image(images.to(self._device, self._input_dtype), normalize=False).float()

    def texts(self, texts: Sequence[str]) -> Features:
        """fp32 text features, not normalised; what the tokenizer leaves of an over-long text (see `cut`)."""
        return self._network.encode_text(self.tokenizer(list(texts)).to(self._device), normalize=False).float()

    def cut(self, texts: Sequence[str]) -> list[bool]:
        """Which texts the tokenizer cuts short; needs no weights."""
        room = self.tokenizer.context_length
        # One more place changes nothing for a text that fits, and holds one more token of a text that does not.
        filled = [
            (self.tokenizer(list(texts), length) != self.tokenizer([""], length)).sum(dim=1)
            for length in (room, room + 1)
        ]
        return (filled[1] > filled[0]).tolist()

    def probe(self, device: torch.device, dtype: torch.dtype, batch: int) -> Callable[[], Tensor] | None:
        """A forward of one block of the image tower, with random weights; None where the tower has no such blocks."""
        tower = _network(self.model, self.pretrained, dtype).visual
        if not isinstance(tower, VisionTransformer):
            return None
        block = tower.transformer.resblocks[0].to_empty(device=device).eval().requires_grad_(False)
        for parameter in block.parameters():
            nn.init.normal_(parameter, std=0.02)
        return partial(block, torch.randn(batch, *tower.positional_embedding.shape, device=device).to(dtype))

    @cached_property
    def tokenizer(self) -> Any:
        """open_clip's own: texts -> tokens, cut and padded; the text tower's length is its `context_length`."""
        try:
            return open_clip.get_tokenizer(self.model)
        except OSError as error:
            raise KoalaError(f"the tokenizer of {self.model} is not on this machine: {error}") from error


def preparation(model: str, pretrained: str) -> Preparation:
    """What open_clip's own transform does to images before the tag's network."""
    tag, side = _tag(model, pretrained), _side(model)
    red, green, blue = ([255 * float(value) for value in pair] for pair in zip(tag["mean"], tag["std"], strict=True))
    normalise = Normalise((red[0], green[0], blue[0]), (red[1], green[1], blue[1]))
    if tag["resize_mode"] == "squash":
        return Preparation((PilResize(side, tag["interpolation"]), normalise))
    assert tag["resize_mode"] == "shortest", f"no tag of open_clip resizes by {tag['resize_mode']}"
    return Preparation((PilResize(side, tag["interpolation"], shortest=True), CenterCrop(side), normalise))


def variant(name: str) -> Clip:
    """The tag called MODEL/PRETRAINED; `UnknownName` where open_clip has none."""
    model, _, pretrained = name.rpartition("/")
    if name not in (known := _tags()):
        same_model = [tag for tag in known if tag.rpartition("/")[0] == model]
        like = same_model or difflib.get_close_matches(name, known, n=8, cutoff=0.3) or known
        raise UnknownName("CLIP tag", name, like)
    return Clip(model, pretrained)


PRESETS = (
    "ViT-B-32/openai",
    "ViT-L-14/openai",
    "ViT-L-14-336/openai",
    "ViT-g-14/laion2b_s12b_b42k",
    "ViT-g-14/laion2b_s34b_b88k",
)
VARIANTS = {name: partial(variant, name) for name in PRESETS}


def _tags() -> list[str]:
    return [f"{model}/{tag}" for model, tag in open_clip.list_pretrained()]


def _tag(model: str, pretrained: str) -> dict[str, Any]:
    """How the tag's weights were trained: mean, std, interpolation, resize_mode, quick_gelu."""
    return open_clip.get_pretrained_cfg(model, pretrained)


@cache
def _config(model: str) -> dict[str, Any]:
    config = open_clip.get_model_config(model)
    assert config is not None, f"open_clip lists tags of {model}, and has no config of it"
    return config


def _side(model: str) -> int:
    side = _config(model)["vision_cfg"].get("image_size", 224)  # CLIPVisionCfg's default
    if not isinstance(side, int):
        raise KoalaError(f"{model} takes images of {side}, and only square ones are prepared here")
    return side


def _network(model: str, pretrained: str, dtype: torch.dtype) -> nn.Module:
    """The tag's network without weights, on the meta device where all of its buffers can be made again."""
    network = _built(model, pretrained, dtype, torch.device("meta"))
    if all(name.endswith(_MASK) for name in _computed(network)):
        return network
    return _built(model, pretrained, dtype, torch.device("cpu"))


def _built(model: str, pretrained: str, dtype: torch.dtype, device: torch.device) -> nn.Module:
    try:
        with _without_warnings(), device:
            return open_clip.create_model(
                model,
                load_weights=False,
                precision=PRECISIONS[dtype],
                device=device,
                force_quick_gelu=_tag(model, pretrained).get("quick_gelu", False),
                pretrained_text=False,
            )
    except OSError as error:  # a text tower of transformers, whose config is on the hub
        raise KoalaError(f"{model} cannot be built without the hub: {error}") from error


@contextmanager
def _without_warnings() -> Iterator[None]:
    """open_clip warns, on the root logger, that a network without weights is random."""
    root, handler, before = logging.getLogger(), logging.NullHandler(), logging.root.manager.disable
    root.addHandler(handler)
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
        root.removeHandler(handler)


_MASK = "attn_mask"


def _computed(network: nn.Module) -> dict[str, Tensor]:
    """The buffers that no checkpoint holds."""
    kept = network.state_dict().keys()
    return {name: buffer for name, buffer in network.named_buffers() if name not in kept}


@torch.no_grad()
def _filled(network: nn.Module, path: Path, device: torch.device) -> nn.Module:
    """The network with the file's tensors in its own dtypes; `Misfit` says what does not fit."""
    _refuse_scripts(path)
    names = _names(network, path)
    if next(network.parameters()).is_meta:
        network = network.to_empty(device=device)
        for mask in _computed(network).values():
            mask.fill_(float("-inf")).triu_(1)  # a text's token sees those before it
    network = network.to(device).eval().requires_grad_(False)
    targets = network.state_dict()
    file, mapped_bytes = Checkpoint([path]), 0
    for theirs, ours in names.items():
        if mapped_bytes > _MAPPED_BYTES:
            file, mapped_bytes = Checkpoint([path]), 0  # the pages of the old mapping are given back
        tensor = file.tensor(theirs)
        targets[ours].copy_(tensor)
        mapped_bytes += tensor.nbytes
        del tensor
    return network


def _refuse_scripts(path: Path) -> None:
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        if any(name.endswith("/constants.pkl") for name in archive.namelist()):
            raise KoalaError(
                f"{path} is a TorchScript archive, as openai published CLIP: opening one can run code. "
                "`python -m eval weights` names the file with the same tensors"
            )


def _names(network: nn.Module, path: Path) -> dict[str, str]:
    """The file's name of a tensor -> the network's, for all tensors of both."""
    own, file = network.state_dict().keys(), Checkpoint([path])
    usual = {key: _own_name(key, own) for key in file.shapes}
    fitted = fit(network, Renamed(str(path), {usual[key]: file.tensor(key) for key in usual}))
    return {key: fitted[name] for key, name in usual.items() if name in fitted}


def _own_name(key: str, own: Any) -> str:
    """What the network calls a checkpoint's tensor: without DDP's prefix, and with that of a separate text tower."""
    key = key.removeprefix("module.")
    return f"text.{key}" if key not in own and f"text.{key}" in own else key
