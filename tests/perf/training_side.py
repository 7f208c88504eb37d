"""One side of the comparison of training steps, in a process of its own: `python training_side.py JSON`.

Prints JSON: seconds of every step after the warm-up and peaks of memory while steps were made.
"""

import json
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import psutil
import torch
from peer_training import BK_SDM, SEGMIND, PeerTraining

from koala.distill import distributed
from koala.distill.assemble import inherited
from koala.distill.config import Run
from koala.distill.data.building import Job, build
from koala.distill.data.cache import Cache
from koala.distill.data.encoding import preparation_for
from koala.distill.data.sources import open_source
from koala.distill.finetune import FineTuning
from koala.distill.kd import Distillation
from koala.distill.log import FILE, read
from koala.distill.lora import add_adapters
from koala.distill.matching import pairs
from koala.distill.trainer import Trainer
from koala.harness.memory import meter_for
from koala.models import zoo
from koala.models.load import DTYPES, load
from koala.models.spec import AutoencoderPlan, ClipText, ModelSpec

NARROW = 96  # of 320 channels: group norms want multiples of 32
WARM_UP, STEPS = 3, 6
STYLES = {"bk-sdm": BK_SDM, "segmind": SEGMIND}
PROBED, WORTHWHILE = 5, 1.2


@dataclass(frozen=True)
class Side:
    """What a process trains, and how."""

    how: str  # ours, bk-sdm, segmind, finetune, lora, or encode: make the cache
    student: str
    teacher: str
    features: tuple[str, ...]
    cache: str
    side: int
    batch_size: int
    low: str  # precision where that may be low
    device: str = "cpu"
    narrow: bool = True


def spec_of(side: Side, name: str) -> ModelSpec:
    """A model of the zoo at the resolution of the comparison, with about a third of its channels everywhere."""
    spec = replace(zoo.get(name), resolution=side.side)
    return narrowed(spec) if side.narrow else spec


def narrowed(spec: ModelSpec) -> ModelSpec:
    """`spec` with the same topology and 0.3 of the channels in its U-Net and text encoders.

    The autoencoder's are such that the encoders' share of a step's arithmetic at 256 px is that at full size.
    """
    plan, text, autoencoder = spec.unet, spec.conditioning, spec.autoencoder
    assert isinstance(text, ClipText) and isinstance(autoencoder, AutoencoderPlan)
    encoders = tuple(replace(encoder, width=encoder.width * 5 // 16) for encoder in text.encoders)
    text = replace(text, encoders=encoders)
    shape = text.context_shape
    heads = tuple(head if plan.pooled_dim is None else max(1, 3 * head // 5) for head in plan.heads)
    unet = replace(
        plan,
        channels=tuple(NARROW * channels // 320 for channels in plan.channels),
        heads=heads,
        context_dim=shape[1],
        pooled_dim=None if plan.pooled_dim is None else encoders[-1].width,
        time_id_dim=80,
    )
    small = replace(autoencoder, channels=(32, 96 if plan.pooled_dim is None else 64, 128, 128))
    return replace(spec, unet=unet, conditioning=text, autoencoder=small, unet_params=None, weights=None)


def low_precision(device: torch.device) -> str:
    """bf16 where a convolution and a matrix product are at least 1.2 times faster in it than in fp32."""
    seconds = {}
    for name in ("fp32", "bf16"):
        image = torch.randn(4, 96, 32, 32, device=device, dtype=DTYPES[name])
        kernel = torch.randn(96, 96, 3, 3, device=device, dtype=DTYPES[name])
        rows, matrix = (torch.randn(1024, 384, device=device, dtype=DTYPES[name]) for _ in range(2))
        taken = []
        for _ in range(2 + PROBED):
            start = time.perf_counter()
            torch.nn.functional.conv2d(image, kernel, padding=1)
            (rows @ matrix.T).sum().item()
            taken.append(time.perf_counter() - start)
        seconds[name] = median(taken[2:])
    return "bf16" if seconds["fp32"] >= WORTHWHILE * seconds["bf16"] else "fp32"


def encode(side: Side) -> dict[str, Any]:
    """Write the cache that ours reads; whole seconds of that, loading included."""
    spec, photos, start = spec_of(side, side.student), f"{side.cache}-photos", time.perf_counter()
    job = Job(spec, "random", photos, open_source(photos), preparation_for(spec, side.side), batch_size=side.batch_size)
    index = build(job, Path(side.cache), side.device, side.low, lambda units: nullcontext((_nothing, _nothing)))
    assert index is not None and index.shards
    return {"seconds": time.perf_counter() - start}


def _nothing() -> None:
    pass


def ours(side: Side) -> dict[str, Any]:
    """Our trainer on cached latents and embeddings: distillation, fine-tuning or adapters."""
    spec, device = spec_of(side, side.student), torch.device(side.device)
    if side.how == "ours":
        teacher = spec_of(side, side.teacher)
        taught_by = load(teacher, device, side.low, parts=("unet",)).unet
        student = inherited(teacher, spec, "random", 0)
        objective = Distillation(spec, student, teacher, taught_by, side.features)
    else:
        unet = load(spec, "cpu", parts=("unet",)).unet
        if side.how == "lora":
            add_adapters(unet, 16, 16, Run(student="", student_weights="random").lora_targets)
        objective = FineTuning(spec, unet)
    out = Path(f"{side.cache}-{side.how}-{time.time_ns()}")
    run = Run(
        student=spec.name,
        student_weights="random",
        steps=WARM_UP + STEPS,
        batch_size=side.batch_size,
        precision=side.low,
        log_every=1,
        save_every=WARM_UP + STEPS,
        tracker="none",
        device="cpu" if side.device == "cpu" else "auto",
        out=out,
    )
    with distributed.processes(run, out) as accelerator:
        Trainer(run, objective, Cache(side.cache), out, accelerator).train()
    rows = read(out / FILE)
    return {"step_s": [row["step_s"] for row in rows[WARM_UP:]], **rows[-1]["memory_bytes"]}


def peer(side: Side) -> dict[str, Any]:
    """The published scripts' step; decoded pixels are there from the start."""
    spec, teacher, device = spec_of(side, side.student), spec_of(side, side.teacher), torch.device(side.device)
    student = inherited(teacher, spec, "random", 0)
    taught_by = load(teacher, device, "fp32", parts=("unet",)).unet
    compared = [(pair.teacher, pair.student) for pair in pairs(side.features, "bottom", teacher.unet, spec.unet)]
    style = STYLES[side.how]
    training = PeerTraining(student, taught_by, teacher, compared, style, DTYPES[side.low], side.device)
    del student, taught_by
    size = (side.side, side.side)
    sizes = torch.tensor([[*size, 0, 0, *size]], dtype=torch.float32).repeat(side.batch_size, 1)

    def step(number: int) -> None:
        captions = [f"picture {number} of {i} discs on a ground of noise" for i in range(side.batch_size)]
        training.step(pixels, captions, None if teacher.unet.pooled_dim is None else sizes)

    pixels = torch.rand(side.batch_size, 3, *size) * 2 - 1
    return timed(step, device)


def timed(step: Callable[[int], None], device: torch.device) -> dict[str, Any]:
    """Seconds of each step, of which the first ones are not counted, and the peaks of memory of all."""
    meter, seconds = meter_for(device), []
    meter.start()
    for number in range(WARM_UP + STEPS):
        start = time.perf_counter()
        step(number)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - start)
    return {"step_s": seconds[WARM_UP:], **meter.read()}


def main() -> None:
    """Run the side that the first argument describes."""
    fields = json.loads(sys.argv[1])
    side = Side(**{**fields, "features": tuple(fields["features"])})
    run = {"encode": encode, **dict.fromkeys(STYLES, peer)}.get(side.how, ours)
    libraries = psutil.Process().memory_info().rss
    print("\n" + json.dumps({"side": asdict(side), "rss_libraries": libraries, **run(side)}))


if __name__ == "__main__":
    main()
