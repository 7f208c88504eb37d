"""`python -m koala profiles`."""

import json
from dataclasses import dataclass
from typing import Annotated

import tyro

from koala.models import zoo
from koala.sampling.profiles import PROFILES

EXAMPLES = ("python -m koala profiles", "python -m koala profiles sdm-v1.5 --json")


@dataclass(frozen=True)
class Options:
    """List the speed and memory profiles: what each saves and costs, and whether it works here with a model.

    Several go together with +, as in `--profile tiny-vae+low-vram`.
    """

    model: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="[MODEL]")] = "koala-700m"
    """Model of the zoo that "works here" is asked for."""
    json: bool = False
    """Print JSON, one object per profile."""


def run(options: Options) -> int:
    """Print the profiles."""
    spec = zoo.get(options.model)
    import pandas as pd
    import torch

    from koala.harness.tables import to_markdown

    devices = {"cpu": "fp32", **({"cuda": "fp16"} if torch.cuda.is_available() else {})}
    lines = []
    for profile in PROFILES.values():
        line = {"profile": profile.name, "saves": profile.saves, "costs": profile.costs}
        for device, dtype in devices.items():
            reason = profile.obstacle(spec, torch.device(device), dtype)
            line[f"works on {device}"] = f"no: {reason}" if reason else "yes"
        lines.append(line)
    if options.json:
        print(json.dumps(lines, indent=1))
    else:
        print(to_markdown(pd.DataFrame(lines)))
        print(f"\nFor {spec.name} on the devices that this torch can use; the GPU in fp16.")
    return 0
