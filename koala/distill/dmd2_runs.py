"""DMD2's training runs, one function each: the paper's, and the same for KOALA's students. Needs no torch."""

from dataclasses import replace
from typing import Any

from koala.distill.config import Run

_FOUR, _ONE = (999, 749, 499, 249), (399,)
_NOTES = (
    "DMD2 (Yin et al., NeurIPS 2024), its code and appendix: AdamW (0.9, 0.999), decay 1e-2, constant rate after 500 "
    "steps, clipped at 10, bf16, seed 10, no average of the generator",
    "the warm-up is of 500 steps here; its code moves the schedule on once for each process, so that its own was of "
    "500 / 64",
    "data: captions of LAION-Aesthetics 6.25+ (3 million) to draw from; --real: 500,000 images of 5.5+, 1024 px",
)
_UNVERIFIED = (
    "unverified: nobody has shown a KOALA student of few steps; numbers are those of SDXL. The critic is built like "
    "the student and begins with its weights, for it has to follow the student; the teacher is SDXL itself"
)


def _dmd2(**values: Any) -> Run:
    """A run with what all of the paper's have in common."""
    common: dict[str, Any] = {"warmup": 500, "clip_norm": 10.0, "precision": "bf16", "seed": 10}
    return Run(**common, gradient_checkpointing=True, save_every=1000, **values)


def _sdxl(name: str, steps: int, timesteps: tuple[int, ...], *notes: str) -> Run:
    return _dmd2(
        name=name,
        student="sdxl",
        teacher="sdxl",
        timesteps=timesteps,
        steps=steps,
        batch_size=2,
        global_batch=128,
        learning_rate=5e-7,
        notes=(*_NOTES, "batch 128 = 2 x 64 A100 of 80 GB, sharded: --config_file koala/distill/fsdp.yaml", *notes),
    )


def sdxl_4step() -> Run:
    """DMD2-SDXL in four steps."""
    return _sdxl("dmd2-sdxl-4step", 20_000, _FOUR, "sources disagree: 19,000 to 20,000 steps; 60 hours")


def sdxl_1step() -> Run:
    """DMD2-SDXL in one step, from a generator that was trained on the teacher's own pairs of noise and image."""
    return _sdxl(
        "dmd2-sdxl-1step",
        25_000,
        _ONE,
        "sources disagree: 24,000 to 25,000 steps; 57 hours",
        "left out here: the generator begins as the teacher; the paper's begins with dmd2-sdxl-1step-pretrain: give "
        "--student-weights runs/train/dmd2-sdxl-1step-pretrain/final",
    )


def sdxl_1step_pretrain() -> Run:
    """What DMD2-SDXL in one step begins with: the teacher's own pairs of noise and image, at timestep 399."""
    return replace(
        _sdxl("dmd2-sdxl-1step-pretrain", 2_000, _ONE),
        matching_weight=0.0,
        gan_weight=0.0,
        critic_gan_weight=0.0,
        regression_weight=1.0,
        batch_size=4,
        global_batch=256,
        learning_rate=1e-5,
        notes=(
            _NOTES[0],
            "DMD2's appendix: 10,000 pairs of SDXL (guidance 8, its pipeline's default steps), 2,000 steps of 4 x 64",
            "data: `python -m koala pairs sdxl --guidance 8 --n 10000 ...`",
            "left out: its distance is LPIPS, as --lpips FOLDER has it; the mean square of latents needs no weights",
        ),
    )


def sdxl_4step_lora() -> Run:
    """DMD2-SDXL in four steps, as an adapter."""
    return replace(
        _sdxl("dmd2-sdxl-4step-lora", 16_000, _FOUR),
        student_weights="hub",
        learning_rate=5e-5,
        lora_rank=64,
        lora_alpha=8.0,
        lora_targets=(
            *("to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2"),
            *("conv1", "conv2", "conv_shortcut", "downsamplers.0.conv", "upsamplers.0.conv", "time_emb_proj"),
        ),
        notes=(
            *_NOTES,
            "63 hours on 64 A100; rank 64, alpha 8, on attention, feed-forward, projections, convolutions and time",
            "unverified: which layers exactly its list of names matches",
        ),
    )


def sd15(stage: int) -> Run:
    """DMD2 of Stable Diffusion v1.5 in one step: distribution matching alone (stage 1), then with the GAN (stage 2)."""
    first = stage == 1
    return _dmd2(
        name=f"dmd2-sd15-stage{stage}",
        student="sdm-v1.5",
        teacher="sdm-v1.5",
        timesteps=(999,),
        guidance=1.75,
        ratio=10,
        gan_weight=0.0 if first else 1e-3,
        critic_gan_weight=0.0 if first else 1e-2,
        steps=40_000 if first else 5_000,
        batch_size=32,
        global_batch=2048,
        learning_rate=1e-5 if first else 5e-7,
        notes=(
            *_NOTES,
            "batch 2048 = 32 x 64 A100",
            "sources disagree: 39,000 to 40,000 steps, 25 hours"
            if first
            else "sources disagree: 2,000 steps in its README, 5,000 in the paper (here)",
            *(
                ()
                if first
                else (
                    "begins with the best of stage 1: --student-weights runs/train/dmd2-sd15-stage1/final and "
                    "--critic-weights CHECKPOINT/critic.safetensors",
                )
            ),
        ),
    )


def imagenet64(stage: int = 0) -> Run:
    """DMD2 of EDM's ImageNet-64 in one step: all at once (0), or matching alone (stage 1), then with the GAN (2)."""
    begins = (
        "begins with the best of stage 1: --student-weights runs/train/dmd2-imagenet64-stage1/final and "
        "--critic-weights CHECKPOINT/critic.safetensors"
    )
    steps, hours = {0: (200_000, "53"), 1: (410_000, "70"), 2: (150_000, "38")}[stage]
    disagree = {1: "sources disagree: 400,000 to 410,000 steps", 2: "sources disagree: 140,000 to 150,000 steps"}
    return replace(
        _dmd2(
            name=f"dmd2-imagenet64-stage{stage}" if stage else "dmd2-imagenet64",
            student="edm-imagenet64",
            teacher="edm-imagenet64",
            timesteps=(999,),
            guidance=1.0,
            gan_weight=0.0 if stage == 1 else 3e-3,
            critic_gan_weight=0.0 if stage == 1 else 1e-2,
            steps=steps,
            batch_size=40,
            global_batch=280,
            learning_rate=5e-7 if stage == 2 else 2e-6,
        ),
        gradient_checkpointing=False,
        notes=(
            *_NOTES[:1],
            f"batch 280 = 40 x 7 A100, {hours} hours; without guidance, for the model knows no image without a class",
            "data: ImageNet at 64 px, which are the GAN's real images too; captions are the numbers of classes",
            "unverified: the warm-up counts 500 steps here, its own 500 / 7; dropout, which is 0 here",
            "left out: the teacher's file, which is no pickle: --teacher-weights FILE",
            *((disagree[stage],) if stage else ()),
            *((begins,) if stage == 2 else ()),
        ),
    )


def koala(size: str, steps: int) -> Run:
    """A KOALA student of SDXL that draws in four steps, or in one."""
    run = sdxl_4step() if steps == 4 else sdxl_1step()
    model = f"koala-{size}"
    return replace(
        run,
        name=f"dmd2-{model}-{steps}step",
        student=model,
        student_weights="hub",
        critic=model,
        notes=(*run.notes[: len(_NOTES)], _UNVERIFIED),
    )
