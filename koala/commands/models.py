"""`python -m koala models`."""

import json
from dataclasses import asdict, dataclass

from koala.models import zoo
from koala.models.spec import ModelSpec

EXAMPLES = ("python -m koala models", "python -m koala models --json")


@dataclass(frozen=True)
class Options:
    """List the zoo: U-Net parameters and size, transformer depths, mid block, resolution, recipe, source."""

    json: bool = False
    """Print JSON, one object per model with every field."""


def run(options: Options) -> int:
    """Print the zoo."""
    specs = [zoo.get(name) for name in zoo.names()]
    if options.json:
        print(json.dumps([asdict(spec) for spec in specs], indent=1))
        return 0
    import pandas as pd

    from koala.harness.tables import significant, to_markdown

    frame = pd.DataFrame([line(spec) for spec in specs])
    print(to_markdown(frame, {"params": "{:,}".format, "fp16 [GB]": significant(3), "fp32 [GB]": significant(3)}))
    print("\nSizes are the U-Net's. `tiny-NAME` is a small random twin of any of them.")
    return 0


def line(spec: ModelSpec) -> dict[str, object]:
    """What the table says of a model."""
    params = spec.unet_params or 0
    recipe = spec.recipe
    return {
        "model": spec.name,
        "params": params,
        "fp16 [GB]": params * 2 / 1e9,
        "fp32 [GB]": params * 4 / 1e9,
        "depths": ",".join(map(str, spec.unet.transformer_depths)),
        "mid block": "yes" if spec.unet.mid_block else "no",
        "native [px]": str(spec.resolution),
        "recipe": f"{recipe.scheduler}, {recipe.steps} steps, CFG {recipe.guidance:g}",
        "weights": spec.weights.repository if spec.weights else "not released",
        "source": spec.source,
    }
