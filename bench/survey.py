"""What cases cost, counted before anything is measured, and how fast this device multiplies: run in a child."""

from dataclasses import asdict
from functools import partial
from typing import Any

import torch

from bench.case import DTYPES as DTYPE_BYTES
from bench.case import Case
from bench.instruments.clock import clock_for, current_device
from bench.isolate import Message, Send
from bench.profiles import get as get_profile
from koala.models.cost import decode_cost, image_cost, unet_cost
from koala.models.load import DTYPES
from koala.models.spec import ModelSpec
from koala.sampling.schedules import build_scheduler, set_timesteps, with_steps


def unet_calls(spec: ModelSpec, case: Case) -> int:
    """Times that one image goes through the U-Net in a run: its timesteps, twice each where the recipe is guided."""
    return _timesteps(spec, case) * (2 if spec.recipe.guided else 1)


def _timesteps(spec: ModelSpec, case: Case) -> int:
    if case.target == "unet":
        return 1
    recipe = with_steps(spec.recipe, case.steps)
    return len(set_timesteps(build_scheduler(recipe, spec.prediction, spec.noising), recipe, torch.device("cpu")))


def survey(send: Send, cases: list[dict[str, Any]]) -> Message:
    """The cost of each case's denoising step, counted on the meta device, with the `timesteps` of a run, `call_flops`
    of one timed call, `weight_bytes` of all that is loaded for it and its most `activation_bytes`.

    Null for a pipeline that is a black box. Equal ones are counted once.
    """
    steps: dict[tuple, Message] = {}
    calls: dict[tuple, Message] = {}
    return {"costs": [_cost(Case(**fields), steps, calls) for fields in cases]}


def _cost(case: Case, steps: dict[tuple, Message], calls: dict[tuple, Message]) -> Message | None:
    if case.pipeline is not None:
        return None
    spec, forwards = case.spec, unet_calls(case.spec, case)
    rows = case.batch_size * (2 if spec.recipe.guided else 1)
    key = (spec.unet, case.resolution, rows, case.dtype)
    if key not in steps:
        steps[key] = asdict(unet_cost(spec, case.resolution, rows, case.dtype))
    cost = steps[key] | {"timesteps": _timesteps(spec, case)}
    if case.target == "unet":
        return cost | {"call_flops": cost["flops"], "weight_bytes": cost["params"] * DTYPE_BYTES[case.dtype]}
    profile = get_profile(case.profile)
    if profile.obstacle(spec, torch.device(case.device), case.dtype) is None:
        spec = profile.respec(spec)
    whole = (*key, case.batch_size, forwards, spec.conditioning, spec.recipe.guided, spec.autoencoder)
    if whole not in calls:
        calls[whole] = _image(spec, case, forwards)
    return cost | calls[whole]


def _image(spec: ModelSpec, case: Case, forwards: int) -> Message:
    """What a whole image costs: its operations, and the bytes that it needs at most."""
    image = image_cost(spec, case.resolution, case.batch_size, case.dtype, forwards)
    decoding = decode_cost(spec, case.resolution, case.batch_size, case.dtype).params
    upcast = DTYPE_BYTES[decode_dtype(spec, case) or case.dtype]
    weights = (image.params - decoding) * DTYPE_BYTES[case.dtype] + decoding * upcast
    return {"call_flops": image.flops, "weight_bytes": weights, "activation_bytes": image.activation_bytes}


def decode_dtype(spec: ModelSpec, case: Case) -> str | None:
    """The dtype that images are decoded in: fp32 where an fp16 autoencoder must be upcast; null where none decodes."""
    if case.target == "unet" or spec.autoencoder is None:
        return None
    return "fp32" if case.dtype == "fp16" and spec.autoencoder.upcast_to_fp32 else case.dtype


def probe(send: Send, device_name: str, dtypes: list[str]) -> Message:
    """FLOP/s of a square matrix product in each dtype on the device: which ones are fast here."""
    device = current_device(device_name)
    clock = clock_for(device)
    side = 8192 if device.type == "cuda" else 1024
    rates = {}
    for name in dtypes:
        a = torch.randn(side, side, device=device).to(DTYPES[name])
        times = [clock.time(partial(torch.matmul, a, a))["total"] for _ in range(6)]
        rates[name] = 2 * side**3 / min(times[1:])
    return {"rates": rates}
