"""What a fresh process does: one case in, what was measured out. Errors leave through stderr and the exit code."""

import os
import time
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from bench.blackbox.call import PipelineCall, import_classes, load_pipeline
from bench.case import Case
from bench.instruments.clock import clock_for, current_device
from bench.instruments.phases import Phases
from bench.instruments.vram import Cap, ContextBytes, cap_for
from bench.isolate import Message, Send
from bench.measure import Samples, Workload, repeat
from bench.profiles import get as get_profile
from bench.rule import Rule
from bench.survey import decode_dtype, unet_calls
from bench.workloads import box_call, build_workload
from koala.errors import KoalaError
from koala.harness.memory import MemoryMeter, meter_for
from koala.harness.nvml import Nvml
from koala.models.networks import count_params

# What torch, its CPU allocator and CUDA's libraries say when memory is the reason.
_MEMORY_WORDS = (
    *("out of memory", "can't allocate memory", "cannot allocate memory", "not enough memory", "alloc_failed"),
    "can't start new thread",  # whose stack a cap on the process leaves no room for
)
# What torch says of a convolution when no engine of cuDNN works; it keeps to itself that some got no workspace.
_NO_ENGINE = "unable to find an engine to execute this computation"


@dataclass(frozen=True)
class Session:
    """The process of one case: its device, what measures there, and what limits it."""

    send: Send
    case: Case
    device: torch.device
    meter: MemoryMeter
    context: ContextBytes | None
    cap: Cap | None

    def warmed_up(self) -> None:
        """The context has grown by the kernels that ran: the cap is set by it as it is now."""
        if self.cap:
            try:
                self.cap.hold()
            except KoalaError as error:  # the kernels alone have outgrown the card
                raise torch.OutOfMemoryError(str(error)) from error
        self.send({"stage": "sampling"})

    def timed(self, stage: str, timing: dict) -> None:
        """Tell the parent of a timing."""
        self.send({"stage": stage, "timing": timing})

    def context_bytes(self, name: str) -> Message:
        """What this process holds on its GPU beside torch's pool, under that name; nothing on a CPU."""
        return {name: self.context.now()} if self.context else {}


def measure_case(send: Send, case_fields: dict[str, Any], rule_fields: dict[str, Any]) -> Message:
    """Load and time one case: `status` "ok" with every sample, "oom" with the peaks so far, or "unsupported".

    The last is the answer of a profile or a cap that cannot work here; both say why.
    """
    case, rule = Case(**case_fields), Rule(**rule_fields)
    session = begin(send, case)
    measured: Message = {"threads": torch.get_num_threads(), "memory_bytes": session.context_bytes("context")}
    try:
        if reason := _obstacle(session):
            return measured | {"status": "unsupported", "reason": reason}
        _measure(session, rule, measured)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        measured |= {"status": "oom", "reason": str(error).splitlines()[0] if str(error) else "out of memory"}
        measured["memory_bytes"] |= session.meter.read()
    measured["memory_bytes"] |= session.context_bytes("context_end")
    return measured | ({"emulation": session.cap.facts()} if session.cap else {})


def begin(send: Send, case: Case) -> Session:
    """A session on the case's device, whose context is made and whose peaks count from here."""
    index, on_gpu = int(case.device.partition(":")[2] or 0), case.device.startswith("cuda")
    context = ContextBytes(index, Nvml(), lambda: torch.cuda.memory_reserved(index)) if on_gpu else None
    device = current_device(case.device)
    meter = meter_for(device)
    meter.start()
    if on_gpu:
        torch.cuda.synchronize(device)
    send({"stage": "load", "pid": os.getpid()})
    if case.pipeline is not None:
        import_classes(case.box)
    cap = cap_for(case.vram_bytes, device, context) if case.vram_bytes else None
    return Session(send, case, device, meter, context, cap)


def _obstacle(session: Session) -> str | None:
    """Why the case cannot be measured here, or None; from here on its cap is in force."""
    case = session.case
    try:
        if case.pipeline is None:
            get_profile(case.profile).check(case.spec, session.device, case.dtype)
        if session.cap:
            session.cap.hold()
    except KoalaError as error:
        return str(error)
    return None


def _measure(session: Session, rule: Rule, measured: Message) -> None:
    case = session.case
    clock = clock_for(session.device)
    rule = replace(rule, warmup=max(rule.warmup, get_profile(case.profile).settles_after))
    measured["rule"] = asdict(rule)
    start = time.perf_counter()
    workload = _loaded(case, Phases(clock), measured)
    measured["load_s"] = time.perf_counter() - start
    samples = repeat(workload, clock, rule, session)
    session.send({"stage": "sampled"})
    measured["memory_bytes"] |= session.meter.read()
    measured |= samples_fields(samples)
    if case.pipeline is not None:
        assert isinstance(workload, PipelineCall)
        measured["unet_calls"] = workload.nfe
    workload.prepare()
    measured["memory_bytes"] |= session.meter.of_call(workload.run)
    if case.pipeline is not None:
        assert isinstance(workload, PipelineCall)
        measured["flops"] = _flops(workload)
    measured["status"] = "ok"


def _flops(call: PipelineCall) -> int | None:
    """Operations of one more call; null where memory runs out only now, when all is measured."""
    try:
        return call.count_flops()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return None


def _loaded(case: Case, phases: Phases, measured: Message) -> Workload:
    """The workload of the case, and in `measured` what was loaded for it."""
    if case.pipeline is not None:
        loaded = load_pipeline(case.box, torch.device(case.device), case.dtype)
        measured["memory_bytes"] |= {"weights": loaded.weight_bytes}
        measured |= {"params": loaded.params, "class_name": case.box.class_name}
        return box_call(loaded.pipeline, case, phases)
    measured["unet_calls"] = unet_calls(case.spec, case)
    workload, components = build_workload(case.spec, case, phases)
    measured["memory_bytes"] |= {"weights": components.weight_bytes}
    measured["params"] = sum(map(count_params, components.networks))
    measured["decode_dtype"] = decode_dtype(components.spec, case)
    return workload


def samples_fields(samples: Samples) -> Message:
    """The samples as a row holds them."""
    steps = {"step": samples.steps} if samples.steps else {}
    return {"samples_s": {**samples.seconds, **steps}, "warmup_s": samples.warmup}


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory ran out, on the device or on the host."""
    words = str(error).lower()
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or any(w in words for w in _MEMORY_WORDS):
        return True
    return _NO_ENGINE in words and _refused_allocations() > 0


def _refused_allocations() -> int:
    """How often torch's CUDA allocator has had no memory to give on the current device, caught or not."""
    return torch.cuda.memory_stats().get("num_ooms", 0) if torch.cuda.is_initialized() else 0


def gpu_survives_fork(send: Send) -> Message:
    """Whether this process could use a GPU: its server must not have asked CUDA for anything before it forked."""
    return {"usable": not torch.cuda._is_in_bad_fork()}
