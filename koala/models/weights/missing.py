"""What to say when released weights cannot be had: which files are wanted, and every way to supply them."""

from collections.abc import Mapping
from pathlib import PurePosixPath

from koala.models.spec import HubFile, ModelSpec
from koala.models.weights.checkpoint import ENDINGS
from koala.models.weights.files import LAYOUTS
from koala.models.weights.places import MIRROR, cache_folder, other_snapshots, repository_cache


def ways_to_supply(
    spec: ModelSpec,
    wanted: Mapping[str, HubFile],
    missing: Mapping[str, HubFile],
    reasons: Mapping[HubFile, str],
) -> str:
    """The message of the error: `missing` are those of the `wanted` networks that were not found anywhere."""
    files = {network: _example(network, file) for network, file in missing.items()}
    lines = [f"the released weights of {spec.name} are not on this machine, and the hub does not give them"]
    lines += [f"  {repository}: {reason}" for repository, reason in reasons.items()]
    lines += ["wanted (also as .fp16 variant, in shards, or as .bin):"]
    lines += [f"  {missing[network].repository}/{path}" for network, path in files.items()]
    lines += ["ways to supply them:"]
    if folders := [_example(n, HubFile("", LAYOUTS[n].folder)) for n in wanted if _of_pipeline(spec, n)]:
        lines += [f"  --weights DIR: a diffusers folder with {', '.join(f'DIR/{path}' for path in folders)}"]
    first = next(iter(missing))
    file, path, more = missing[first], files[first], ", and so on" if len(missing) > 1 else ""
    lines += [f"  {MIRROR}=DIR: DIR/{file.repository}/{path}{more}"]
    snapshot = f"hub/{repository_cache(file).name}/snapshots/{file.revision or 'REVISION, its name in refs/main'}"
    lines += [f"  HF_HOME=DIR: DIR/{snapshot}/{path}{more}"]
    lines += [f"  a network: they are downloaded once, into {cache_folder()}"]
    lines += ["  --weights random: none at all, to try out time and memory; images are noise"]
    lines += [
        f"  (another revision is here: {folder})" for repository in reasons for folder in other_snapshots(repository)
    ]
    return "\n".join(lines)


def _example(network: str, file: HubFile) -> str:
    """The file in the repository that would do."""
    path = PurePosixPath(file.path)
    return str(path / LAYOUTS[network].example if network in LAYOUTS and path.suffix not in ENDINGS else path)


def _of_pipeline(spec: ModelSpec, network: str) -> bool:
    """Whether a diffusers folder that the user gives would be read for `network`."""
    return network in LAYOUTS and not spec.apart(network)
