"""What four other tools say of two folders of images, each given the same weights in the form that it expects."""

import os
from unittest import mock

import cleanfid.fid
import numpy as np
import pytorch_fid.fid_score
import torch
from cleanfid.inception_torchscript import InceptionV3W
from PIL import Image
from torch import nn
from torch_fidelity import calculate_metrics
from torchmetrics.image.fid import FrechetInceptionDistance

from eval.extractors.inception import inception_module, layers_of

CPU = torch.device("cpu")
PACKAGES = ("torch-fidelity", "clean-fid", "pytorch-fid", "torchmetrics", "torch", "scipy", "numpy", "pillow")
HUB_NAME = "pt_inception-2015-12-05-6726825d.pth"  # under which pytorch-fid's download is cached
BATCH = 16
QUIET = {"cuda": False, "cache": False, "verbose": False, "save_cpu_ram": True}  # the last: no workers


class TorchScriptForm(nn.Module):
    """The interface that clean-fid wants of its TorchScript file, around traced layers."""

    def __init__(self, layers):
        super().__init__()
        self.layers = layers

    def forward(self, images, return_features: bool = False):
        return self.layers((images - 128) / 128)


def write_torchscript(weights, folder):
    """The network as clean-fid reads it."""
    traced = torch.jit.trace(layers_of(inception_module(weights)), torch.zeros(2, 3, 299, 299), check_trace=False)
    torch.jit.script(TorchScriptForm(traced)).save(folder / "inception-2015-12-05.pt")


def torch_fidelity(one, other, weights, subset_size=None):
    """FID, IS and KID of its own Inception."""
    options = {"kid": True, "isc": True, "kid_subset_size": subset_size or len(list(one.iterdir()))}
    found = _torch_fidelity(one, other, weights, fid=True, **options)
    return {
        "fid": found["frechet_inception_distance"],
        "kid": found["kernel_inception_distance_mean"],
        "isc": found["inception_score_mean"],
    }


def torch_fidelity_fid(one, other, weights, batch=BATCH):
    """FID alone."""
    return _torch_fidelity(one, other, weights, batch, fid=True)["frechet_inception_distance"]


def torch_fidelity_shares(one, other, weights):
    """Precision and recall of its VGG-16."""
    found = _torch_fidelity(one, other, weights, prc=True)
    return {"precision:tf": found["precision"], "recall:tf": found["recall"]}


def clean_fid(one, other, folder, batch=BATCH):
    """FID of two folders, with `folder` in place of /tmp."""
    return _clean_fid(cleanfid.fid.compute_fid, one, other, folder, batch)


def clean_kid(one, other, folder):
    """KID, whose subsets come from numpy's global sequence."""
    np.random.seed(2020)
    return _clean_fid(cleanfid.fid.compute_kid, one, other, folder, BATCH)


def pytorch_fid_of(one, other, weights, cache, batch=12):
    """FID, with `cache` in place of torch's cache of downloads."""
    (cache / "hub" / "checkpoints").mkdir(parents=True, exist_ok=True)
    cached = cache / "hub" / "checkpoints" / HUB_NAME
    if not cached.exists():
        cached.symlink_to(weights)
    with mock.patch.dict(os.environ, TORCH_HOME=str(cache)):
        paths = [str(one), str(other)]
        return float(pytorch_fid.fid_score.calculate_fid_given_paths(paths, batch, CPU, 2048, num_workers=0))


def torchmetrics_fid(one, other, weights, batch=BATCH):
    """FID as it is by default: antialiased."""
    metric = FrechetInceptionDistance(feature_extractor_weights_path=str(weights))
    for folder, real in ((one, False), (other, True)):
        paths = sorted(folder.iterdir())
        for start in range(0, len(paths), batch):
            images = np.stack([np.array(Image.open(path)) for path in paths[start : start + batch]])
            metric.update(torch.from_numpy(images).permute(0, 3, 1, 2), real=real)
    return metric.compute().item()


def _torch_fidelity(one, other, weights, batch=BATCH, **wanted):
    return calculate_metrics(
        input1=str(one),
        input2=str(other),
        feature_extractor_weights_path=str(weights),
        batch_size=batch,
        **wanted,
        **QUIET,
    )


def _clean_fid(compute, one, other, folder, batch):
    network = InceptionV3W(str(folder), download=False).eval()
    options = {"mode": "clean", "num_workers": 0, "device": CPU, "verbose": False, "use_dataparallel": False}
    with mock.patch("cleanfid.fid.build_feature_extractor", lambda *_, **__: network):
        return float(compute(str(one), str(other), batch_size=batch, **options))
