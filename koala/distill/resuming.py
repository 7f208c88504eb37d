"""What of a run may change between two starts of it."""

import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

from koala.distill.config import Run

# They change no number, or only where it ends. How the images of a step are split may change too, for their sum is
# compared.
_FREE = {
    *("steps", "out", "save_every", "keep", "log_every", "sample_every", "sample_prompts", "tracker", "name", "notes"),
    *("data", "batch_size", "accumulation", "global_batch", "workers", "device", "on_nan"),
    *("gradient_checkpointing", "compile"),
}
_DEFAULTS = {field.name: field.default for field in fields(Run)}


def settings(run: Run, identity: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What must be the same at every start, as JSON gives it back: settings of `run`, and `identity`."""
    kept = {name: value for name, value in asdict(run).items() if name not in _FREE}
    return json.loads(json.dumps({**kept, **(identity or {})}, default=str))


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What differs between two `settings`, for an error; empty where nothing does.

    A setting that one of them lacks, as an older version wrote none, has its default there.
    """
    defaults = json.loads(json.dumps(_DEFAULTS, default=str))
    pairs = {
        name: (before.get(name, defaults.get(name)), now.get(name, defaults.get(name))) for name in {**before, **now}
    }
    return "; ".join(f"{_flag(name)} was {old!r} and is {new!r}" for name, (old, new) in pairs.items() if old != new)


def _flag(name: str) -> str:
    return name if " " in name else f"--{name.replace('_', '-')}"
