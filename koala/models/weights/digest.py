"""One digest of all weight files that a model is loaded from."""

import hashlib
from collections.abc import Collection

from koala.harness.hashes import sha256
from koala.models.load import RANDOM
from koala.models.networks import PARTS
from koala.models.spec import ModelSpec
from koala.models.weights.lora import Adapter, adapter_file
from koala.models.weights.source import locate


def weights_digest(spec: ModelSpec, weights: str, dtype: str, adapters: Collection[Adapter] = ()) -> str | None:
    """sha256 over the sha256 of every file that `load` would read, by network; None for random weights.

    Digests of files are remembered, since gigabytes take seconds.
    """
    if weights == RANDOM:
        return None
    source = locate(spec, weights, PARTS, dtype)
    lines = [f"{network} {sha256(path)}" for network, part in source.parts.items() for path in part.checkpoint.paths]
    lines += [
        f"adapter {adapter.scale} {sha256(adapter_file(adapter.path))}" for adapter in (*source.adapters, *adapters)
    ]
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()
