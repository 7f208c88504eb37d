"""What tests of judges share: pictures, prompts, weight files with random values, and a metric's way to its scores."""

from math import prod

import torch

from eval.networks import Networks
from eval.weights import Weights

PROMPTS = ["a red apple on a blue table", "two dogs", "two dogs"]
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # CLIP's


def images(n=3, height=40, width=40):
    """Pictures of noise, always the same of one height."""
    generator = torch.Generator().manual_seed(height)
    return torch.randint(0, 256, (n, height, width, 3), generator=generator, dtype=torch.uint8)


def networks(files):
    """Networks of files that the user names."""
    return Networks(Weights(files), torch.device("cpu"))


def scored(metric, pixels, prompts, nets):
    """The metric's scores, as a scoring run comes to them."""
    metric.load(nets)
    if metric.feed is None:
        return metric.score(pixels, prompts)
    features = nets.features(metric.feed, metric.feed.preparation(pixels.permute(0, 3, 1, 2)))
    return metric.score(features, prompts)


def random_state(module, dtype=torch.float32, gain=1.0):
    """Random tensors of a module's names and shapes, which keep the size of what they multiply; integers as they are.

    Numbers repeat every million, which is quick.
    """
    noise, found = torch.randn(1_000_003, generator=torch.Generator().manual_seed(0)), {}
    for key, tensor in module.state_dict().items():
        shape = tuple(tensor.shape)
        if not tensor.is_floating_point():
            found[key] = tensor.clone()
        elif not shape:
            found[key] = torch.tensor(2.5, dtype=dtype)  # a logarithm of a scale
        else:
            size = gain * prod(shape[1:]) ** -0.5 if len(shape) > 1 and "embeddings" not in key else 0.1
            values = noise.repeat(-(-prod(shape) // len(noise)))[: prod(shape)].view(shape) * size
            centre = 1.0 if len(shape) == 1 and key.endswith("weight") else 0.0
            found[key] = (values + centre).to(dtype)
    return found
