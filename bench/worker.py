"""What a fresh process does: one case in, what was measured out. Errors leave through stderr and the exit code."""

import time
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import torch

from bench.case import Case
from bench.instruments.clock import clock_for
from bench.isolate import Message, Send
from bench.measure import Rule, Samples, repeat
from bench.profiles import get as get_profile
from bench.workloads import build_workload
from koala.errors import KoalaError
from koala.harness.memory import MemoryMeter, meter_for
from koala.models.cost import unet_cost
from koala.models.load import DTYPES
from koala.models.networks import count_params
from koala.models.spec import ModelSpec
from koala.sampling.schedules import build_scheduler, set_timesteps, with_steps

# What torch, its CPU allocator and CUDA's libraries say when memory is the reason.
_MEMORY_WORDS = ("out of memory", "can't allocate memory", "not enough memory", "alloc_failed")


def measure_case(send: Send, case_fields: dict[str, Any], rule_fields: dict[str, Any]) -> Message:
    """Load and time one case: `status` "ok" with every sample, "oom" with the peaks so far, or "unsupported".

    The last is the answer of a profile that cannot work here; both say why.
    """
    case, rule = Case(**case_fields), Rule(**rule_fields)
    meter = meter_for(current_device(case.device))
    meter.start()
    measured: Message = {"threads": torch.get_num_threads()}
    try:
        _measure(send, case, rule, meter, measured)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        measured |= {"status": "oom", "reason": str(error).splitlines()[0] if str(error) else "out of memory"}
        measured["memory_bytes"] = measured.get("memory_bytes", {}) | meter.read()
    return measured


def _measure(send: Send, case: Case, rule: Rule, meter: MemoryMeter, measured: Message) -> None:
    send({"stage": "load"})
    clock = clock_for(torch.device(case.device))
    spec, profile = case.spec, get_profile(case.profile)
    try:
        profile.check(spec, torch.device(case.device), case.dtype)
    except KoalaError as error:
        measured |= {"status": "unsupported", "reason": str(error)}
        return
    rule = replace(rule, warmup=max(rule.warmup, profile.settles_after))
    measured |= {"rule": asdict(rule), "unet_calls": unet_calls(spec, case)}
    start = time.perf_counter()
    workload, components = build_workload(spec, case, clock)
    measured["load_s"] = time.perf_counter() - start
    measured["decode_dtype"] = decode_dtype(components.spec, case)
    measured["memory_bytes"] = {"weights": components.weight_bytes}
    measured["params"] = sum(map(count_params, components.networks))

    samples = repeat(workload, clock, rule, lambda stage, timing: send({"stage": stage, "timing": timing}))
    measured["memory_bytes"] |= meter.read()
    measured |= {"status": "ok", **samples_fields(samples)}


def decode_dtype(spec: ModelSpec, case: Case) -> str | None:
    """The dtype that images are decoded in: fp32 where an fp16 autoencoder must be upcast; null where none decodes."""
    if case.target == "unet" or spec.autoencoder is None:
        return None
    return "fp32" if case.dtype == "fp16" and spec.autoencoder.upcast_to_fp32 else case.dtype


def unet_calls(spec: ModelSpec, case: Case) -> int:
    """Times that one image goes through the U-Net in a run: its timesteps, twice each where the recipe is guided."""
    return _timesteps(spec, case) * (2 if spec.recipe.guided else 1)


def _timesteps(spec: ModelSpec, case: Case) -> int:
    if case.target == "unet":
        return 1
    recipe = with_steps(spec.recipe, case.steps)
    return len(set_timesteps(build_scheduler(recipe, spec.prediction), recipe, torch.device("cpu")))


def current_device(name: str) -> torch.device:
    """The device of that name, made current: CUDA's events are recorded on the current device's stream."""
    device = torch.device(name)
    if device.type == "cuda":
        device = torch.device("cuda", device.index or 0)
        torch.cuda.set_device(device)
    return device


def samples_fields(samples: Samples) -> Message:
    """The samples as a row holds them."""
    steps = {"step": samples.steps} if samples.steps else {}
    return {"samples_s": {**samples.seconds, **steps}, "warmup_s": samples.warmup}


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory ran out, on the device or on the host."""
    words = str(error).lower()
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(w in words for w in _MEMORY_WORDS)


def gpu_survives_fork(send: Send) -> Message:
    """Whether this process could use a GPU: its server must not have asked CUDA for anything before it forked."""
    return {"usable": not torch.cuda._is_in_bad_fork()}


def survey(send: Send, cases: list[dict[str, Any]]) -> Message:
    """The cost of each case's denoising step, counted on the meta device, and the `timesteps` of a run.

    Equal steps are counted once.
    """
    counted: dict[tuple, Message] = {}
    costs = []
    for fields in cases:
        case = Case(**fields)
        spec = case.spec
        rows = case.batch_size * (2 if spec.recipe.guided else 1)
        key = (spec.unet, case.resolution, rows, case.dtype)
        if key not in counted:
            counted[key] = asdict(unet_cost(spec, case.resolution, rows, case.dtype))
        costs.append(counted[key] | {"timesteps": _timesteps(spec, case)})
    return {"costs": costs}


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
