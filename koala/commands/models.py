"""`python -m koala models`."""

import json
from dataclasses import asdict, dataclass

from koala.models import zoo
from koala.models.spec import ModelSpec, Recipe

EXAMPLES = ("python -m koala models", "python -m koala models --json")


@dataclass(frozen=True)
class Options:
    """List the zoo: U-Net parameters and size, transformer depths, mid block, resolution, recipe, weights, licence."""

    json: bool = False
    """Print JSON, one object per model with every field, its source and what is unverified."""


def run(options: Options) -> int:
    """Print the zoo."""
    specs = [zoo.get(name) for name in zoo.names()]
    if options.json:
        print(json.dumps([asdict(spec) for spec in specs], indent=1))
        return 0
    import pandas as pd

    from koala.harness.tables import significant, to_markdown

    frame = pd.DataFrame([line(spec) for spec in specs])
    print(to_markdown(frame, {"params": "{:,}".format, "fp16 [GB]": significant(3)}))
    print(
        "\nParameters and bytes are the U-Net's. Depths are transformer layers per attention block and stage, from the"
        "\nhighest resolution; the mid block's are beside them. Sources and remarks: --json."
        "\n`tiny-NAME` is a small random twin of any of them."
    )
    return 0


def line(spec: ModelSpec) -> dict[str, object]:
    """What the table says of a model."""
    params = spec.unet_params or 0
    return {
        "model": spec.name,
        "params": params,
        "fp16 [GB]": params * 2 / 1e9,
        "depths": ",".join(map(str, spec.unet.transformer_depths)),
        "mid": "none" if spec.unet.mid_depth is None else str(spec.unet.mid_depth),
        "px": str(spec.resolution),
        "recipe": recipe_text(spec.recipe),
        "predicts": spec.prediction,
        "fp16 decodes in": "fp32" if spec.autoencoder and spec.autoencoder.upcast_to_fp32 else "fp16",
        "weights": where_released(spec),
        "license": spec.license,
    }


def recipe_text(recipe: Recipe) -> str:
    """A recipe in one line: "euler, trailing, 10 steps, CFG 3.5"."""
    timesteps = f" ({'/'.join(map(str, recipe.timesteps))})" if recipe.timesteps else ""
    spacing = [recipe.timestep_spacing] if recipe.timestep_spacing != "leading" else []
    steps = f"{recipe.steps} step{'s' if recipe.steps > 1 else ''}{timesteps}"
    return ", ".join([recipe.scheduler, *spacing, steps, f"CFG {recipe.guidance:g}" if recipe.guided else "no CFG"])


def where_released(spec: ModelSpec) -> str:
    """The repository that makes the model what it is; the rest of a U-Net's or adapter's pipeline is its teacher's."""
    if spec.weights is None:
        return spec.home or "not released"
    return (spec.weights.unet or spec.weights.lora or spec.weights.pipeline).repository
