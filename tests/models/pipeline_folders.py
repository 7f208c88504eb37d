"""Tiny pipelines saved as diffusers saves them, in the layouts in which weights are looked for."""

import shutil
from dataclasses import replace
from pathlib import Path

import torch

from koala.models import zoo
from koala.models.load import load
from koala.models.spec import HubFile, Pretrained
from koala.sampling.pipelines import diffusers_pipeline

SDXL = zoo.get("tiny-koala-700m")
SDM_V1 = zoo.get("tiny-bk-sdm-tiny")
SDM_V2 = zoo.get("tiny-bk-sdm-v2-tiny")
FAMILIES = {spec.name: spec for spec in (SDXL, SDM_V1, SDM_V2)}
REPOSITORY = "someone/a-model"


def networks_of(components):
    encoders = components.conditioner.networks if components.conditioner else ()
    named = {"unet": components.unet, "autoencoder": components.autoencoder}
    named |= {f"text_encoder_{i}": encoder for i, encoder in enumerate(encoders)}
    return {name: network for name, network in named.items() if network is not None}


def saved(spec, folder, seed=7, **how):
    """Random components of `spec`, of which `folder` now holds a copy."""
    components = load(spec, "cpu", seed=seed)
    diffusers_pipeline(components).save_pretrained(folder, **how)
    return components


def assert_same_networks(found, expected, dtype=torch.float32):
    found, expected = networks_of(found), networks_of(expected)
    assert found.keys() == expected.keys()
    for name, network in expected.items():
        assert_same_state(found[name], network.state_dict(), dtype)


def assert_same_state(network, expected, dtype=torch.float32):
    state = network.state_dict()
    assert state.keys() == expected.keys()
    for key, tensor in expected.items():
        assert torch.equal(state[key], tensor.to(dtype)), key
    assert not network.training
    assert not any(parameter.requires_grad for parameter in network.parameters())


def on_hub(spec, revision=None, **pretrained):
    """`spec` as if its pipeline had been released."""
    return replace(spec, weights=Pretrained(HubFile(REPOSITORY, revision=revision), **pretrained))


def as_mirror(folder: Path, root: Path, repository=REPOSITORY):
    shutil.copytree(folder, root / repository, dirs_exist_ok=True)
    return root


def as_cache(folder: Path, home: Path, revision="main", commit="0123456789abcdef0123456789abcdef01234567"):
    """As the hub's own client leaves a download: blobs, links to them by commit, and names of commits."""
    root = home / "hub" / f"models--{REPOSITORY.replace('/', '--')}"
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        link = root / "snapshots" / commit / file.relative_to(folder)
        blob = root / "blobs" / str(file.relative_to(folder)).replace("/", "-")
        for path in (link, blob):
            path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, blob)
        link.symlink_to(blob)
    (root / "refs").mkdir()
    (root / "refs" / revision).write_text(commit)
    return root / "snapshots" / commit
