"""Complete training runs, one function each: those of KOALA, BK-SDM and Segmind, and LoRA. Needs no torch.

Values are the papers'; each run's notes say where they are from, and what is unverified or disagrees between sources.
`tiny-NAME` is the same run on small random twins: minutes on a CPU, without any download.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from koala.distill import dmd2_runs, emoji_runs
from koala.distill.config import INHERIT, Run
from koala.errors import UnknownName
from koala.models.twin import TWIN_PREFIX

_KOALA_FEATURES = ("SA", "LF@DW-1", "LF@UP-3")
_BLOCKS = ("LF@DW", "LF@UP")  # the output of every stage but the mid block
_GLOBAL_BATCH = "batch {batch} = {split}: other numbers of processes reach it by accumulation"

_KOALA_NOTES = (
    "KOALA (Lee et al., NeurIPS 2024) sections 3 and A.3: AdamW, constant 1e-5, fp16, 4 A100 of 80 GB",
    _GLOBAL_BATCH.format(batch=128, split="8 per GPU x 4 accumulated x 4 GPUs (the name of a released checkpoint)"),
    "unverified, for the paper does not say: loss weights (1 each, as BK-SDM), AdamW's betas, decay and warm-up, "
    "clipping, EMA (none here), caption dropout (none here)",
    "LF at DW-1 and UP-3 is what appendix B.1 finds best; that the released models have it is likely, not stated",
    "the paper encodes with sdxl-vae-fp16-fix and conditions on size and crop",
)


def _koala(name: str, student: str, teacher: str, steps: int, *notes: str) -> Run:
    return Run(
        name=name,
        student=student,
        teacher=teacher,
        features=_KOALA_FEATURES,
        steps=steps,
        batch_size=8,
        global_batch=128,
        learning_rate=1e-5,
        precision="fp16",
        save_every=5000,
        notes=(*_KOALA_NOTES, *notes),
    )


def koala_base(size: str) -> Run:
    """KOALA from SDXL-Base at 1024 px."""
    return _koala(
        f"koala-{size}-base",
        f"koala-{size}",
        "sdxl",
        100_000,
        "the paper gives 100,000 steps for its studies of data and teacher; those of the first released base models "
        "are not stated. Their data: LAION-Aesthetics V2 6+ (8,483,623 pairs), for -llava-cap with longer captions",
    )


def koala_turbo(size: str) -> Run:
    """KOALA-Turbo: from SDXL-Turbo at 512 px."""
    return _koala(
        f"koala-{size}-turbo",
        f"koala-turbo-{size}",
        "sdxl-turbo",
        500_000,
        "data: LAION-POP (491,567 images, captions of 81 words on average)",
        "the noise schedule and the objective are those of the base run; no public checkpoint was found to compare",
    )


def koala_lightning(size: str) -> Run:
    """KOALA-Lightning: from the 4-step U-Net of SDXL-Lightning at 1024 px."""
    return _koala(
        f"koala-{size}-lightning",
        f"koala-lightning-{size}",
        "sdxl-lightning-4step",
        500_000,
        "data: LAION-POP (491,567 images, captions of 81 words on average)",
        "steps: the paper and the model card say 500,000; one released upload is called checkpoint-350000",
    )


def _bk_sdm(family: str, size: str, teacher: str, batch_size: int, *notes: str) -> Run:
    """BK-SDM: all stages' outputs; of tiny, whose innermost stage is gone, the last projection in its place."""
    return Run(
        name=f"{family}-{size}",
        student=f"{family}-{size}",
        teacher=teacher,
        features=("LF@DW-1", "LF@DW-2", "PO@DW-3", "LF@UP") if size == "tiny" else _BLOCKS,
        steps=50_000,
        batch_size=batch_size,
        global_batch=4 * batch_size,
        learning_rate=5e-5,
        ema_decay=0.9999,
        precision="fp16",
        gradient_checkpointing=True,
        seed=1234,
        save_every=5000,
        notes=(
            "BK-SDM (Kim et al., ECCV 2024), its code and model card: AdamW (0.9, 0.999), decay 1e-2, constant 5e-5, "
            "EMA, clipped at 1, one A100 of 80 GB",
            _GLOBAL_BATCH.format(batch=4 * batch_size, split=f"{batch_size} x 4 accumulated on one GPU"),
            "encode centre crops, flipped at random; data: LAION-Aesthetics V2 6.5+ (212,776 pairs), for -2M 6.25+ "
            "(2,256,472)",
            "the decay of the EMA is not stated: 0.9999 is the default of the class that the code uses",
            *notes,
        ),
    )


def bk_sdm(size: str) -> Run:
    """BK-SDM from Stable Diffusion v1.4 at 512 px."""
    return _bk_sdm("bk-sdm", size, "sdm-v1.4", 64)


def bk_sdm_v2(size: str) -> Run:
    """BK-SDM-v2 from Stable Diffusion v2.1-base at 512 px."""
    return _bk_sdm("bk-sdm-v2", size, "sdm-v2.1-base", 32, "steps and rate are taken over from v1: unverified for v2")


def bk_sdxl() -> Run:
    """BK-SDXL, KOALA's baseline: block removal alone, stage outputs as features."""
    return replace(
        koala_base("1b"),
        name="bk-sdxl",
        student="bk-sdxl",
        features=_BLOCKS,
        steps=50_000,
        notes=(
            "KOALA (Lee et al., NeurIPS 2024) section 3.1: BK-SDM's recipe on SDXL; no weights were released",
            _GLOBAL_BATCH.format(batch=128, split="8 x 4 x 4 GPUs, as KOALA"),
            "unverified: its hyper-parameters were not found; these are KOALA's, the steps those of its comparison "
            "with BK-SDM",
        ),
    )


def _segmind(name: str, steps: int, features: tuple[str, ...], *notes: str) -> Run:
    return Run(
        name=name,
        student=name,
        teacher="realistic-vision-v4.0",
        features=features,
        output_weight=0.5,
        feature_weight=0.5,
        steps=steps,
        batch_size=32,
        global_batch=128,
        learning_rate=1e-4,
        precision="fp16",
        save_every=5000,
        notes=(
            "Segmind distill-sd: its code, README, blog and model cards; LAION-Art with better captions at 512 px",
            _GLOBAL_BATCH.format(batch=128, split="32 x 4 accumulated"),
            "sources disagree: the model card has 1e-4 (here), the README 1e-5 with a cosine, its example command 1e-5 "
            "constant with batch 4",
            "sources disagree: the README weighs output and features by 0.5 (here), the script's default is 1",
            *notes,
        ),
    )


def segmind_small_sd() -> Run:
    """Segmind small-sd, the topology of BK-SDM-Base, from Realistic Vision 4.0; the mid block is compared too."""
    return _segmind(
        "segmind-small-sd",
        95_000,
        ("LF@DW", "LF@Mid", "LF@UP"),
        "sources disagree: 95,000 steps on the model card (here), 100,000 in the blog, 15,000 in the example command",
    )


def segmind_tiny_sd() -> Run:
    """Segmind tiny-sd, the topology of BK-SDM-Tiny; its innermost stage is compared with the teacher's way up."""
    features = ("LF@DW-1", "LF@DW-2", "down_blocks.2=up_blocks.0", "LF@UP")
    return _segmind("segmind-tiny-sd", 125_000, features)


def segmind_portrait_finetune() -> Run:
    """Segmind's tiny-sd, fine-tuned on portraits at 768 px: no teacher."""
    return Run(
        name="segmind-portrait-finetune",
        student="segmind-tiny-sd",
        student_weights="hub",
        resolution=768,
        steps=131_000,
        batch_size=32,
        global_batch=128,
        learning_rate=1e-4,
        precision="fp16",
        save_every=5000,
        notes=(
            "Segmind distill-sd, README: 131,000 steps at 1e-4, 768 px, 7,000 images, fp16",
            _GLOBAL_BATCH.format(batch=128, split="32 x 4 accumulated"),
            "unverified: the schedule of the rate (constant here) and whether an EMA was kept (none here)",
        ),
    )


def lora() -> Run:
    """LoRA on a compressed model, for a handful of images of one subject or style."""
    return Run(
        name="lora",
        student="koala-700m",
        student_weights="hub",
        lora_rank=16,
        lora_alpha=27.0,
        steps=800,
        batch_size=1,
        learning_rate=1e-4,
        precision="fp16",
        save_every=200,
        notes=(
            "BK-SDM (Kim et al., ECCV 2024), its DreamBooth script: rank 16, alpha 27, 1e-4, 800 steps of one image; "
            "Segmind's LoRA script defaults to rank 4, alpha 32",
            "left out of that script: adapters in the text encoder (--lora-text) and prior preservation",
            "on koala-lightning-* plain fine-tuning is untested: it may cost them their few steps",
        ),
    )


_SIZES = {"koala": ("1b", "700m"), "bk": ("base", "small", "tiny")}
RUNS: dict[str, Callable[[], Run]] = {
    **{f"koala-{size}-base": partial(koala_base, size) for size in _SIZES["koala"]},
    **{f"koala-{size}-turbo": partial(koala_turbo, size) for size in _SIZES["koala"]},
    **{f"koala-{size}-lightning": partial(koala_lightning, size) for size in _SIZES["koala"]},
    **{f"bk-sdm-{size}": partial(bk_sdm, size) for size in _SIZES["bk"]},
    **{f"bk-sdm-v2-{size}": partial(bk_sdm_v2, size) for size in _SIZES["bk"]},
    "bk-sdxl": bk_sdxl,
    "segmind-small-sd": segmind_small_sd,
    "segmind-tiny-sd": segmind_tiny_sd,
    "segmind-portrait-finetune": segmind_portrait_finetune,
    "lora": lora,
    "dmd2-sdxl-4step": dmd2_runs.sdxl_4step,
    "dmd2-sdxl-1step-pretrain": dmd2_runs.sdxl_1step_pretrain,
    "dmd2-sdxl-1step": dmd2_runs.sdxl_1step,
    "dmd2-sdxl-4step-lora": dmd2_runs.sdxl_4step_lora,
    **{f"dmd2-sd15-stage{stage}": partial(dmd2_runs.sd15, stage) for stage in (1, 2)},
    "dmd2-imagenet64": dmd2_runs.imagenet64,
    **{f"dmd2-imagenet64-stage{stage}": partial(dmd2_runs.imagenet64, stage) for stage in (1, 2)},
    **{f"dmd2-koala-{size}-{n}step": partial(dmd2_runs.koala, size, n) for size in _SIZES["koala"] for n in (4, 1)},
    **emoji_runs.RUNS,
}


def names() -> list[str]:
    """The named runs; each has a small one called `tiny-NAME` too."""
    return list(RUNS)


def summary(name: str) -> str:
    """The run called `name` in one line."""
    function = RUNS[name]
    return str((function.func if isinstance(function, partial) else function).__doc__)


def get(name: str) -> Run:
    """The run called `name`."""
    plain = name.removeprefix(TWIN_PREFIX)
    if plain not in RUNS:
        raise UnknownName("run", name, [*RUNS, *(TWIN_PREFIX + known for known in RUNS)])
    return RUNS[plain]() if plain == name else tiny(RUNS[plain]())


def tiny(run: Run) -> Run:
    """The run on small random twins in 20 steps: what it prints and writes can be looked at, what it draws is noise."""
    return replace(
        run,
        name=TWIN_PREFIX + run.name,
        student=TWIN_PREFIX + run.student,
        teacher=run.teacher and TWIN_PREFIX + run.teacher,
        critic=run.critic and TWIN_PREFIX + run.critic,
        student_weights=INHERIT if run.student_weights == INHERIT else "random",
        teacher_weights="random",
        data="",
        resolution=run.resolution // 8,
        steps=20,
        batch_size=2,
        global_batch=0,
        learning_rate=1e-3,
        warmup=0,
        ema_decay=min(run.ema_decay, 0.9),
        precision="fp32",
        gradient_checkpointing=False,
        save_every=10,
        log_every=1,
        notes=("a small random twin, to try things out: its pictures are noise", *run.notes),
    )
