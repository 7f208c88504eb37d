"""The peaks of a device that no table knows, measured: large matrix products, and copies larger than its caches."""

from collections.abc import Callable

import torch

from bench.instruments.clock import Clock, clock_for
from bench.isolate import Message, Send
from koala.models.load import DTYPES

BUDGET_S = 1.0  # for the products, and again for the copies
_SIDES = (256, 512, 1024, 2048, 4096, 8192)
_COPY_BYTES = 256 * 2**20  # two such buffers are beyond the caches of today
_PRODUCT_S = 0.1  # a product that takes this long is large enough


def probe_peak(send: Send, device_name: str, dtype: str) -> Message:
    """`flops_per_s` and `bytes_per_s` (read and written) of a device: the best of what about two seconds allow."""
    device = torch.device(device_name)
    if device.type == "cuda":
        torch.cuda.set_device(device.index or 0)  # events are recorded on the current device's stream
    clock = clock_for(device)
    with torch.inference_mode():
        side, flops_per_s = product_rate(clock, device, DTYPES[dtype])
        bytes_per_s = copy_rate(clock, device)
    source = f"probed: matrix products of side {side} in {dtype}, copies of {_COPY_BYTES // 2**20} MiB, best of many"
    return {"flops_per_s": flops_per_s, "bytes_per_s": bytes_per_s, "source": source}


def product_rate(
    clock: Clock, device: torch.device, dtype: torch.dtype, budget_s: float = BUDGET_S
) -> tuple[int, float]:
    """Side of the fastest square matrix product, and its FLOP/s; sides grow until one product takes 0.1 s."""
    rates = {}
    for side in _SIDES:
        a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
        out = torch.empty_like(a)

        def multiply(a: torch.Tensor = a, b: torch.Tensor = b, out: torch.Tensor = out) -> object:
            return torch.mm(a, b, out=out)

        once_s = best_seconds(clock, multiply, 0.0)
        last = once_s >= _PRODUCT_S or side == _SIDES[-1]
        best_s = best_seconds(clock, multiply, budget_s if last else budget_s / 10)
        rates[side] = 2 * side**3 / min(once_s, best_s)
        if last:
            break
    fastest = max(rates, key=rates.__getitem__)
    return fastest, rates[fastest]


def copy_rate(clock: Clock, device: torch.device, budget_s: float = BUDGET_S) -> float:
    """Bytes read and written per second by copies from one large buffer to another."""
    source = torch.ones(_COPY_BYTES, dtype=torch.uint8, device=device)
    target = torch.zeros_like(source)
    return 2 * _COPY_BYTES / best_seconds(clock, lambda: target.copy_(source), budget_s)


def best_seconds(clock: Clock, call: Callable[[], object], budget_s: float) -> float:
    """The quickest of the calls that fit into `budget_s`, at least two after a first that only warms up."""
    clock.time(call)
    times: list[float] = []
    spent_s = 0.0
    while len(times) < 2 or spent_s < budget_s:
        seconds = clock.time(call)
        times.append(seconds.get("device", seconds["total"]))
        spent_s += seconds["total"]
    return min(times)
