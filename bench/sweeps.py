"""Named sweeps, as data. A new one is one entry; `auto` picks by the machine."""

from dataclasses import dataclass, field, replace

from bench.measure import Rule
from koala.errors import UnknownName

AUTO_DTYPE = "auto"  # the dtype that a probe finds fastest on a CPU; fp16 on a GPU
_FULL_SIZE = ("koala-700m", "koala-1b", "sdxl")  # small ones first: a newcomer sees a row soon


@dataclass(frozen=True)
class Sweep:
    """What to measure; empty `resolutions` or `steps` mean the model's own."""

    name: str
    summary: str
    models: tuple[str, ...]
    targets: tuple[str, ...]
    device: str  # "auto": the first GPU, else the CPU
    resolutions: tuple[int, ...] = ()
    batch_sizes: tuple[int, ...] = (1,)
    dtypes: tuple[str, ...] = (AUTO_DTYPE,)
    steps: tuple[int, ...] = ()
    rule: Rule = field(default_factory=Rule)
    timeout_s: float = 1800.0
    only_what_fits: bool = False  # leave out models that the free memory of this machine cannot hold


_CPU_AUTO = Sweep(
    name="auto",
    summary="what suits this machine: on a GPU steps and images at 512 and 1024 px, on a CPU steps at 256 px",
    models=_FULL_SIZE,
    targets=("unet",),
    device="cpu",
    resolutions=(256,),
    rule=Rule(warmup=1, budget_s=15.0),
    only_what_fits=True,
)
_GPU_AUTO = replace(
    _CPU_AUTO,
    targets=("unet", "pipeline"),
    device="cuda",
    resolutions=(512, 1024),
    dtypes=("fp16",),
    rule=Rule(warmup=2, repeats=6, budget_s=20.0),
    only_what_fits=False,  # on a GPU out of memory is an answer
)

SWEEPS = {
    "auto": _CPU_AUTO,
    "cpu": replace(
        _CPU_AUTO,
        name="cpu",
        summary="one denoising step of the full-size U-Nets at 256 and 512 px on a CPU, 3 samples each",
        resolutions=(256, 512),
        rule=Rule(warmup=1, repeats=3, budget_s=0.0),
        only_what_fits=False,
    ),
    "paper": replace(
        _GPU_AUTO,
        name="paper",
        summary="KOALA's table: SDXL and KOALA at 512, 768 and 1024 px in fp16 with the authors' steps",
        resolutions=(512, 768, 1024),
    ),
    "smoke": Sweep(
        name="smoke",
        summary="tiny random twins in seconds: does everything run here?",
        models=("tiny-koala-700m", "tiny-sdxl"),
        targets=("unet", "pipeline"),
        device="auto",
        dtypes=("fp32",),
        steps=(2,),
        rule=Rule(warmup=1, repeats=6, budget_s=1.0),
    ),
}


def choose(name: str, gpus: int) -> Sweep:
    """The sweep called `name` on a machine with that many GPUs."""
    if name not in SWEEPS:
        raise UnknownName("sweep", name, SWEEPS)
    sweep = _GPU_AUTO if name == "auto" and gpus else SWEEPS[name]
    if sweep.device == "auto":
        return replace(sweep, device="cuda" if gpus else "cpu")
    return sweep
