"""A training run as frozen data: what `runs.py` builds and `python -m koala train` overrides. Needs no torch."""

import json
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from koala.errors import KoalaError, first_few
from koala.harness.files import write_whole
from koala.harness.options import Ints, Names

FILE = "run.json"
FOLDER = Path("runs/train")
INHERIT = "inherit"
NUM_TIMESTEPS = 1000  # of Stable Diffusion's noise schedule
Location = Literal["bottom", "interleave", "up"]
Schedule = Literal["constant", "cosine", "linear"]


@dataclass(frozen=True)
class Run:
    """Everything that decides a training run; lengths count optimisation steps unless they say otherwise."""

    # ---- what learns from what
    student: str
    """Model whose U-Net is trained: of the zoo, or the folder of an earlier run."""
    teacher: str = ""
    """Model that is imitated; none: plain fine-tuning."""
    student_weights: str = INHERIT
    """inherit (from the teacher), hub, random, a diffusers folder or a checkpoint file."""
    teacher_weights: str = "hub"
    """hub, random, a diffusers folder or a checkpoint file; also of the text encoders and the autoencoder."""
    features: Names = ()
    """What is compared inside the U-Nets: KIND, KIND@STAGE or STUDENT_MODULE=TEACHER_MODULE; kinds SA CA FFN Res LF PO,
    stages DW-1 ... Mid, UP-1 ..., or DW and UP for all of those."""
    location: Location = "bottom"
    """Which layers of a deeper teacher the student's are compared with."""
    task_weight: float = 1.0
    """Of the error against the noise (or velocity) that was added."""
    output_weight: float = 1.0
    """Of the difference between the two predictions."""
    feature_weight: float = 1.0
    """Of the summed differences between features."""

    # ---- a generator of few steps, by distribution matching (DMD2)
    timesteps: Ints = ()
    """The generator's steps, the noisiest first; none: any number of steps, by the objectives above."""
    critic: str = ""
    """Model whose U-Net follows what the generator draws; default: the teacher."""
    critic_weights: str = ""
    """As --student-weights, or critic.safetensors of a checkpoint; default: where the critic is built like the student
    or the teacher, the weights that it begins with."""
    guidance: float = 8.0
    """Guidance scale of the teacher."""
    ratio: int = 5
    """Updates of the critic for one of the generator."""
    matching_weight: float = 1.0
    """Of the distribution matching loss."""
    gan_weight: float = 5e-3
    """Of the GAN in the generator's loss."""
    critic_gan_weight: float = 1e-2
    """Of the GAN in the critic's loss; 0: the critic has no head."""
    regression_weight: float = 0.0
    """Of the distance to what the teacher draws from the same noise; alone it needs no critic."""
    pairs: str = ""
    """Cache of `python -m koala pairs` for that distance; default: --data."""
    lpips: str = ""
    """Folder of LPIPS's weights for VGG-16, which makes that distance LPIPS between decoded images; default: the mean
    square between latents."""
    simulate: bool = True
    """Later steps begin with what the generator draws in the earlier ones; else with noisy real images."""
    real: str = ""
    """Cache of the GAN's real images; default: the images of --data."""

    # ---- adapters in the place of the weights (LoRA)
    lora_rank: int = 0
    """Train adapters of this rank in the place of the weights; 0: the weights."""
    lora_alpha: float = 0.0
    """Adapters act with alpha / rank; 0: alpha is the rank."""
    lora_targets: Names = ("to_q", "to_k", "to_v", "to_out.0")
    """Layers of the U-Net that get an adapter, by the end of their names."""
    lora_text: bool = False
    """Adapters in the text encoders too, which needs --on-the-fly."""

    # ---- data
    data: str = ""
    """Cache written by `python -m koala encode`; with --on-the-fly a folder, tars, parquet files or a datasets id."""
    on_the_fly: bool = False
    """Decode and encode images as they are needed: no cache, slower steps, more memory."""
    caption_columns: Names = ("text",)
    """Columns of captions, on the fly; a cache has its captions."""
    captions: Literal["each", "append", "replace"] = "each"
    """Several columns: one of them each time, all joined in order, or the last that is not empty; on the fly."""
    random_crop: bool = False
    """Crop images anywhere, elsewhere each time; on the fly, a cache has the crops of `encode --crops`."""
    random_flip: bool = False
    """Mirror every second image or so, others each time; on the fly, a cache has those of `encode --flip`."""
    resolution: int = 0
    """Side of the square crops in pixels; 0: the student's own."""
    workers: int = 2
    """Threads that read and decode ahead."""

    # ---- optimisation
    steps: int = 100_000
    """Optimisation steps."""
    batch_size: int = 8
    """Images per forward pass and process."""
    accumulation: int = 1
    """Forward passes per optimisation step; follows from --global-batch where that is given."""
    global_batch: int = 0
    """Images per optimisation step of all processes together; 0: batch size x accumulation x processes."""
    optimizer: Literal["adamw", "adamw8bit"] = "adamw"
    """adamw8bit needs the package bitsandbytes."""
    learning_rate: float = 1e-5
    """After the warm-up."""
    schedule: Schedule = "constant"
    """Of the learning rate after the warm-up."""
    warmup: int = 0
    """Steps over which the learning rate grows from 0."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Of AdamW."""
    weight_decay: float = 1e-2
    """Of AdamW."""
    epsilon: float = 1e-8
    """Of AdamW."""
    clip_norm: float = 1.0
    """Gradients are scaled down to this norm; 0: never."""
    ema_decay: float = 0.0
    """Of the moving average of the weights that is published in their place; 0: no average."""
    caption_dropout: float = 0.0
    """Share of the images that are shown without their caption, which guidance needs."""
    min_snr_gamma: float = 0.0
    """Weight of each timestep by min-SNR (Hang et al., 2023); 0: all alike, 5 is usual."""
    noise_offset: float = 0.0
    """Share of noise that is constant over an image's channel."""
    precision: Literal["fp32", "bf16", "fp16"] = "bf16"
    """Of the forward pass; weights and optimizer stay in fp32. The teacher is held in it."""
    gradient_checkpointing: bool = False
    """Less memory for a slower step."""
    compile: bool = False
    """torch.compile the U-Nets."""
    seed: int = 0
    """Of the order, crops, captions, noise, timesteps and fresh weights."""
    on_nan: Literal["stop", "skip"] = "stop"
    """A loss that is no number: stop and name the batch, or leave that step out."""

    # ---- what is kept
    out: Path | None = None
    """Folder of the run; default: runs/train/NAME."""
    save_every: int = 1000
    """Steps between checkpoints."""
    keep: int = 2
    """Newest checkpoints that stay."""
    log_every: int = 10
    """Steps between lines of the log."""
    sample_every: int = 0
    """Steps between sample grids; 0: none."""
    sample_prompts: tuple[str, ...] = ()
    """Prompts of the grids; default: captions of the data."""
    tracker: str = "tensorboard"
    """Any tracker of accelerate (wandb, mlflow ...), or none."""
    device: str = "auto"
    """cpu, or auto: a GPU for each process if there is one."""

    # ---- what it is called, which no flag changes
    name: Annotated[str, tyro.conf.Suppress] = ""
    notes: Annotated[tuple[str, ...], tyro.conf.Suppress] = ()  # sources, and what is unverified or disagrees

    def __post_init__(self) -> None:
        for name, least in _LEAST.items():
            if (value := getattr(self, name)) < least:
                raise KoalaError(f"--{name.replace('_', '-')} must be at least {least}, not {value}")
        for name, instead in (("random_crop", "--crops N"), ("random_flip", "--flip")):
            if getattr(self, name) and not self.on_the_fly:
                raise KoalaError(
                    f"--{name.replace('_', '-')} needs --on-the-fly; a cache has what "
                    f"`python -m koala encode {instead}` cut"
                )
        if not 0 <= self.caption_dropout <= 1:
            raise KoalaError(f"--caption-dropout is a share from 0 to 1, not {self.caption_dropout:g}")
        if not 0 <= self.ema_decay < 1:
            raise KoalaError(f"--ema-decay is 0 or below 1, not {self.ema_decay:g}")
        if self.student_weights == INHERIT and not self.teacher:
            raise KoalaError("without a --teacher there is nothing to inherit: give --student-weights")
        if self.timesteps:
            self._check_few_steps()
        elif named := [name for name in _OF_FEW_STEPS if getattr(self, name)]:
            raise KoalaError(f"--{named[0].replace('_', '-')} is for few steps: give --timesteps")
        if self.global_batch % self.batch_size:
            raise KoalaError(f"--global-batch {self.global_batch} is no multiple of --batch-size {self.batch_size}")

    def _check_few_steps(self) -> None:
        steps = self.timesteps
        if list(steps) != sorted(set(steps), reverse=True) or not 0 <= steps[-1] <= steps[0] < NUM_TIMESTEPS:
            raise KoalaError(f"--timesteps fall from at most {NUM_TIMESTEPS - 1} to at least 0, unlike {steps}")
        if not self.teacher:
            raise KoalaError("a generator of few steps needs a --teacher")
        if self.features:
            raise KoalaError("--timesteps and --features belong to two objectives: leave one of them out")
        if not (self.matching_weight or self.gan_weight or self.regression_weight):
            raise KoalaError("nothing is learnt: neither matching nor the GAN nor regression has a weight")
        for name in ("pairs", "lpips"):
            if getattr(self, name) and not self.regression_weight:
                raise KoalaError(f"--{name} is for the distance of --regression-weight, which is 0")
        if self.precision == "fp16":
            raise KoalaError("the GAN's gradients are too small for fp16, whose loss scale does not reach them: bf16")
        if self.gan_weight and not self.critic_gan_weight:
            raise KoalaError("a critic that does not learn to judge teaches nothing: give --critic-gan-weight too")

    @property
    def follows(self) -> bool:
        """Whether a critic follows a generator of few steps."""
        return bool(self.timesteps) and bool(self.matching_weight or self.gan_weight)

    @property
    def folder(self) -> Path:
        """Where the run is kept."""
        return self.out or FOLDER / (self.name or self.student)

    def split(self, processes: int) -> "Run":
        """The run with the accumulation by which that many processes reach the global batch."""
        if not self.global_batch:
            return self
        accumulation, rest = divmod(self.global_batch, self.batch_size * processes)
        if rest:
            raise KoalaError(
                f"{processes} processes of --batch-size {self.batch_size} cannot make up --global-batch "
                f"{self.global_batch}; their product must divide it, or --global-batch 0 takes what comes"
            )
        if self.accumulation not in (1, accumulation):
            raise KoalaError(
                f"--accumulation {self.accumulation} contradicts --global-batch {self.global_batch}, which "
                f"{processes} processes reach with {accumulation}; leave one out (--global-batch 0)"
            )
        return replace(self, accumulation=accumulation)

    @property
    def batch_per_process(self) -> int:
        """Images per optimisation step and process."""
        return self.batch_size * self.accumulation


_OF_FEW_STEPS = ("critic", "real", "pairs", "lpips", "regression_weight")  # and unset elsewhere
_LEAST = {
    **dict.fromkeys(("steps", "batch_size", "accumulation", "save_every", "keep", "log_every", "ratio"), 1),
    **dict.fromkeys(("task_weight", "output_weight", "feature_weight", "lora_rank", "lora_alpha", "workers"), 0),
    **dict.fromkeys(("learning_rate", "warmup", "weight_decay", "clip_norm", "min_snr_gamma", "noise_offset"), 0),
    **dict.fromkeys(("guidance", "matching_weight", "gan_weight", "critic_gan_weight", "regression_weight"), 0),
    **dict.fromkeys(("resolution", "seed", "sample_every", "global_batch"), 0),
}


def write_run(run: Run, path: Path) -> None:
    """Write the run as JSON."""
    write_whole(path, json.dumps(asdict(run), indent=1, default=str) + "\n")


def read_run(path: Path) -> Run:
    """The run that `write_run` wrote into `path`."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise KoalaError(f"{path} is not readable as a run: {error}") from error
    return run_of(found, str(path))


def run_of(found: Any, source: str) -> Run:
    """The run of a JSON object; a field that is unknown or of another type is a `KoalaError`."""
    known = {field.name for field in fields(Run)}
    if not isinstance(found, dict) or "student" not in found:
        raise KoalaError(f"{source} does not describe a run: it names no student")
    if unknown := sorted(found.keys() - known):
        raise KoalaError(f"{source} has fields that this version does not know: {first_few(unknown)}")
    values: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in found.items()}
    values["out"] = values.get("out") and Path(values["out"])
    try:
        return Run(**values)
    except TypeError as error:
        raise KoalaError(f"{source} has a field of another type: {error}") from error
