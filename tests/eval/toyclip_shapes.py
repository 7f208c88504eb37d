"""Pictures of coloured shapes with captions, and networks that see their colours and hear their words alone."""

import hashlib
import json
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw

from eval.extractors import effnet_lite0, minilm

COLOURS = {"red": (220, 40, 40), "green": (40, 170, 60), "blue": (50, 80, 220), "yellow": (235, 205, 50)}
SHAPES = ("disc", "square", "bar")
HELD_OUT = (("red", "disc"), ("green", "square"), ("blue", "bar"))
LEARNT = tuple((colour, shape) for colour in COLOURS for shape in SHAPES if (colour, shape) not in HELD_OUT)
FILES = ("effnet-lite0", "minilm", "minilm-tokenizer")


def drawn(colour: str, shape: str, shift: int, side: int = 64) -> Image.Image:
    image = Image.new("RGB", (side, side), "white")
    draw, part = ImageDraw.Draw(image), side / 64
    box = [part * (edge + 3 * shift) for edge in {"bar": (4, 24, 54, 36)}.get(shape, (12, 10, 46, 44))]
    (draw.ellipse if shape == "disc" else draw.rectangle)(box, fill=COLOURS[colour])
    return image


def folder(path: Path, combinations=LEARNT, copies: int = 2, side: int = 64, rich: bool = True) -> Path:
    """A captioned folder, as `koala data emoji` writes one."""
    path.mkdir(parents=True)
    rows = []
    for colour, shape in combinations:
        for i in range(copies):
            file = f"{colour}-{shape}-{i}.png"
            drawn(colour, shape, i, side).save(path / file)
            row = {"file_name": file, "text": f"{colour} {shape}", "colour": colour, "shape": shape}
            rows.append(row | ({"rich": f"a {colour} {shape} on a white ground"} if rich else {}))
    (path / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def simple_networks(monkeypatch, tmp_path: Path) -> list[str]:
    """Put networks without weights in the place of the real ones; the flags that name their files."""

    def see(self, images):
        pooled = F.adaptive_avg_pool2d(images, 8).flatten(1)
        return F.pad(pooled, (0, self.dim - pooled.shape[1]))

    def hear(self, texts):
        return F.normalize(torch.stack([sum(map(_word, text.split())) for text in texts]), dim=1)

    for network in (effnet_lite0.EffnetLite0, minilm.MiniLm):
        monkeypatch.setattr(network, "load", lambda self, files, device, dtype: None)
    monkeypatch.setattr(effnet_lite0.EffnetLite0, "features", see)
    monkeypatch.setattr(minilm.MiniLm, "texts", hear)
    monkeypatch.setattr(minilm, "cut", lambda prompts, tokenizer: 0)
    flags = []
    for name in FILES:
        (tmp_path / name).write_text(name)
        flags += ["--weights", f"{name}={tmp_path / name}"]
    return flags


def _word(word: str) -> torch.Tensor:
    seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:4])
    return torch.randn(384, generator=torch.Generator().manual_seed(seed))
