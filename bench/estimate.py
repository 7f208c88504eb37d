"""What a sweep will take, before it runs and while it runs: rough, from counted FLOPs and a probed rate."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass

from bench.case import DTYPES, Case
from bench.isolate import ForkServer, Message, Outcome
from bench.profiles import get as get_profile
from bench.rule import QUICK_CALL_S, Rule
from koala.errors import KoalaError
from koala.harness.environment import cpu_cores

_LOAD_BYTES_PER_S = 1.0e9  # first touch of fresh memory on a virtual machine
_LIBRARY_BYTES = 0.8e9  # what a process holds with torch and diffusers imported
_PROCESS_S = 1.0


@dataclass(frozen=True)
class Estimate:
    """Rough bytes (weights, most activations, libraries on a CPU) and rough seconds of one case.

    Bytes are null where a profile keeps weights elsewhere than on the device.
    """

    memory_bytes: float | None
    seconds: float


def fast_dtype(server: ForkServer, device: str) -> str:
    """fp16 on a GPU; on a CPU bf16 where this processor multiplies it clearly faster than fp32."""
    if device.startswith("cuda"):
        return "fp16"
    rates = probe_rates(server, device, ("fp32", "bf16"))
    return "bf16" if rates["bf16"] > 1.1 * rates["fp32"] else "fp32"


def probe_rates(server: ForkServer, device: str, dtypes: Sequence[str]) -> dict[str, float]:
    """Probed FLOP/s of matrix products on `device`, by dtype."""
    return _result(server.call("bench.survey:probe", device, list(dtypes)))["rates"]


def count_costs(server: ForkServer, cases: Sequence[Case]) -> dict[Case, Message | None]:
    """What each case costs as `bench.survey:survey` counts it; null for a pipeline that is a black box."""
    alike: dict[tuple, list[Case]] = {}  # cases whose networks are counted once
    for case in dict.fromkeys(cases):
        alike.setdefault((case.model, case.resolution, case.batch_size, case.dtype), []).append(case)
    workers = max(1, min(cpu_cores(), len(alike)))
    shares = [[case for group in list(alike.values())[n::workers] for case in group] for n in range(workers)]
    with ThreadPoolExecutor(workers) as pool:
        counted = list(pool.map(lambda share: _survey(server, share), shares))
    return dict(pair for share, costs in zip(shares, counted, strict=True) for pair in zip(share, costs, strict=True))


def _survey(server: ForkServer, cases: Sequence[Case]) -> list[Message | None]:
    return _result(server.call("bench.survey:survey", [asdict(case) for case in cases]))["costs"]


def estimate(case: Case, cost: Message | None, rate: float, rule: Rule) -> Estimate | None:
    """What `case` should take at `rate` FLOP/s; null where its cost is not known."""
    if cost is None:
        return None
    weights = cost["weight_bytes"]
    memory = weights + cost["activation_bytes"] + (_LIBRARY_BYTES if case.device == "cpu" else 0)
    elsewhere = get_profile(case.profile).storage is not None
    call_s = cost["call_flops"] / rate
    samples = rule.minimum(call_s)
    if call_s < QUICK_CALL_S or samples * call_s < rule.budget_s:
        samples = max(samples, min(rule.most, round(rule.budget_s / call_s)))
    return Estimate(
        None if elsewhere else memory, _PROCESS_S + weights / _LOAD_BYTES_PER_S + (rule.warmup + samples) * call_s
    )


def fits(case: Case, free_bytes: int) -> bool:
    """Whether the weights of the U-Net, a tenth more for activations, and the libraries fit into `free_bytes`.

    A pipeline that is a black box is always tried.
    """
    if case.pipeline is not None:
        return True
    params = case.spec.unet_params or 0
    return params * DTYPES[case.dtype] * 1.1 + _LIBRARY_BYTES <= free_bytes


def estimates(
    server: ForkServer, cases: Sequence[Case], costs: Mapping[Case, Message | None], rule: Rule
) -> list[Estimate | None]:
    """One estimate per case, from rates probed on its device."""
    rates = {
        device: probe_rates(server, device, sorted({c.dtype for c in cases if c.device == device}))
        for device in {case.device for case in cases}
    }
    return [estimate(case, costs[case], rates[case.device][case.dtype], rule) for case in cases]


def _result(outcome: Outcome) -> Message:
    if outcome.result is None:
        raise KoalaError(f"the measuring process could not start: {outcome.reason}")
    return outcome.result
