"""Weight files for tests of CLIP: open_clip's own checkpoints with random weights, and a network of toy size."""

import hashlib
import json
import logging
from contextlib import contextmanager
from math import prod
from pathlib import Path

import open_clip
import torch
from safetensors.torch import save_file

from eval.weights import Found, MissingWeights, Weights

TINY, TAG = "tiny-clip", "random"
TINY_NAME = f"{TINY}/{TAG}"
TINY_CONFIG = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}
TAG_FACTS = {"mean": (0.4, 0.5, 0.6), "std": (0.2, 0.3, 0.25), "interpolation": "bicubic", "resize_mode": "shortest"}


class SomeWeights(Weights):
    """What `Weights` answers, from a mapping; the hash is the path's, which is enough to tell files apart."""

    def __init__(self, files: dict[str, Path]):
        self.files, self.asked = files, []

    def find(self, name: str) -> Found:
        self.asked.append(name)
        if name not in self.files:
            raise MissingWeights(f"{name} is not here")
        return Found(self.files[name], hashlib.sha256(str(self.files[name]).encode()).hexdigest(), verified=False)


@contextmanager
def tiny_model(folder: Path, config: dict = TINY_CONFIG, tag: dict | None = None):
    """A model of toy size that open_clip lists like its own."""
    from open_clip import factory, pretrained

    from eval.extractors import clip

    path = folder / f"{TINY}.json"
    path.write_text(json.dumps(config))
    open_clip.add_model_config(path)
    pretrained._PRETRAINED[TINY] = {TAG: TAG_FACTS | {"quick_gelu": True} | (tag or {})}
    clip._config.cache_clear()
    try:
        yield TINY_NAME
    finally:
        del pretrained._PRETRAINED[TINY]
        factory._MODEL_CONFIG_PATHS.remove(path)
        del factory._MODEL_CONFIGS[TINY]
        clip._config.cache_clear()


def network(model: str, quick_gelu: bool = True) -> torch.nn.Module:
    """open_clip's own network with its own random start."""
    logging.disable(logging.WARNING)
    try:
        torch.manual_seed(0)
        return open_clip.create_model(model, force_quick_gelu=quick_gelu).eval().requires_grad_(False)
    finally:
        logging.disable(logging.NOTSET)


def safetensors(of: torch.nn.Module, path: Path) -> Path:
    """The network as the hub keeps it."""
    save_file({key: tensor.contiguous() for key, tensor in of.state_dict().items()}, path)
    return path


def random_file(model: str, path: Path) -> Path:
    """A checkpoint of a real size in fp16 with random weights; numbers repeat every few million, which is quick."""
    logging.disable(logging.WARNING)
    with torch.device("meta"):
        shapes = {key: tuple(t.shape) for key, t in open_clip.create_model(model, device="meta").state_dict().items()}
    logging.disable(logging.NOTSET)
    noise = torch.randn(5_000_011, generator=torch.Generator().manual_seed(0)).half()
    save_file({key: _drawn(key, shape, noise) for key, shape in shapes.items()}, path)
    return path


def _drawn(key: str, shape: tuple[int, ...], noise: torch.Tensor) -> torch.Tensor:
    """Matrices keep the size of what they multiply; norms are ones."""
    if len(shape) < 2:
        return (torch.ones if key.endswith("weight") else torch.zeros)(shape, dtype=noise.dtype)
    size = prod(shape)
    values = noise.repeat(-(-size // len(noise)))[:size].reshape(shape)
    return values * (0.02 if "embedding" in key else prod(shape[1:]) ** -0.5)
