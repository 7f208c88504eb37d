"""Named sweeps, as data. A new one is one entry; `auto` picks by the machine."""

from dataclasses import dataclass, field, replace

from bench.case import Axes
from bench.profiles import DIFFUSERS
from bench.rule import Rule
from koala.errors import UnknownName
from koala.sampling.profiles import EAGER, PROFILES

AUTO_DTYPE = "auto"  # the dtype that a probe finds fastest on a CPU; fp16 on a GPU
GIB = 2**30
_FULL_SIZE = ("koala-700m", "koala-1b", "sdxl")  # small ones first: a newcomer sees a row soon
_FIGURE = (  # the bars of KOALA's Fig. 7 and the table of its card, the most wanted first: a sweep may be cut short
    *("koala-lightning-700m", "koala-turbo-700m", "sdxl", "koala-lightning-1b", "koala-turbo-1b"),
    *("sdxl-turbo", "sdxl-lightning-4step", "ssd-1b", "segmind-vega", "sdm-v2.0", "koala-700m", "koala-1b"),
)


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
    profiles: tuple[str, ...] = (EAGER.name,)
    vram: tuple[int | None, ...] = (None,)  # bytes of smaller cards to stand for; None: the device as it is
    pipelines: tuple[str, ...] = ()  # folders or ids of diffusers pipelines, timed as black boxes
    processes: int = 1  # fresh processes that measure each case
    rule: Rule = field(default_factory=Rule)
    timeout_s: float = 1800.0
    only_what_fits: bool = False  # leave out models that the free memory of this machine cannot hold

    def axes(self, dtypes: tuple[str, ...]) -> Axes:
        """What the sweep combines, in these dtypes."""
        return Axes(
            self.models,
            self.targets,
            self.resolutions,
            self.batch_sizes,
            dtypes,
            self.steps,
            self.device,
            self.profiles,
            self.vram,
            self.pipelines,
        )


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
        summary="KOALA's figure: each model's images at its own resolution and steps in fp16, stock diffusers beside",
        models=_FIGURE,
        targets=("pipeline", "unet"),
        resolutions=(),
        profiles=(EAGER.name, DIFFUSERS.name),
    ),
    "profiles": replace(
        _GPU_AUTO,
        name="profiles",
        summary="KOALA-700M's and SDXL's images under every speed profile, stock diffusers beside",
        models=("koala-700m", "sdxl"),
        targets=("pipeline",),
        resolutions=(),
        profiles=(EAGER.name, DIFFUSERS.name, *(name for name in PROFILES if name != EAGER.name), "tiny-vae+compiled"),
        rule=Rule(warmup=2, repeats=6, budget_s=10.0),
    ),
    "cards": replace(
        _GPU_AUTO,
        name="cards",
        summary="KOALA's figure on smaller cards: images under a cap of 8 and 11 GiB beside the card as it is",
        models=_FIGURE[:9],
        targets=("pipeline",),
        resolutions=(),
        profiles=(EAGER.name, DIFFUSERS.name, "low-vram"),
        vram=(None, 8 * GIB, 11 * GIB),
        rule=Rule(warmup=1, repeats=3, budget_s=0.0),
    ),
    "batches": replace(
        _GPU_AUTO,
        name="batches",
        summary="images per second of KOALA-700M and SDXL at 1, 2, 4 and 8 images a call",
        models=("koala-700m", "sdxl"),
        targets=("pipeline",),
        resolutions=(),
        batch_sizes=(1, 2, 4, 8),
        rule=Rule(warmup=2, repeats=3, budget_s=10.0),
    ),
    "resolutions": replace(
        _GPU_AUTO,
        name="resolutions",
        summary="steps and images of SDXL and KOALA at 512, 768 and 1024 px in fp16",
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
        profiles=(EAGER.name, DIFFUSERS.name),
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
