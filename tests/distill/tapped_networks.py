"""Small U-Nets with inputs for them, and hooks and sums spelled out, for the tests of taps and of feature losses."""

from contextlib import contextmanager
from dataclasses import replace

import torch
from torch.nn import functional as F

from koala.distill.matching import pairs
from koala.models import zoo
from koala.models.cost import unet_inputs
from koala.models.load import load

_SDXL = zoo.get("tiny-sdxl")
# Two stages, one attention block a stage, two layers in it: enough for every kind of hook, small enough to compile.
SMALL = replace(
    _SDXL,
    name="small",
    unet=replace(
        _SDXL.unet, channels=(32, 32), heads=(2, 2), transformer_depths=(0, 2), layers_per_block=1, mid_depth=None
    ),
)
SELF_ATTENTION = [
    f"{block}.transformer_blocks.{layer}.attn1"
    for block in ("down_blocks.1.attentions.0", "up_blocks.0.attentions.0", "up_blocks.0.attentions.1")
    for layer in (0, 1)
]
LAST_FEATURES = ["down_blocks.0", "down_blocks.1", "up_blocks.0", "up_blocks.1"]


def unet_of(spec, seed=0, trained=True):
    """The U-Net of `spec` with random weights, in training mode unless it is a teacher's."""
    unet = load(spec, "cpu", parts=("unet",), seed=seed).unet
    return unet.train().requires_grad_() if trained else unet


def inputs_of(spec, side=8, batch=2, seed=0):
    """Arguments of a call; `side` is that of the latents."""
    torch.manual_seed(seed)
    return unet_inputs(spec, side * spec.downscale, batch, torch.float32, torch.device("cpu"))


def first(output):
    return output[0] if isinstance(output, tuple) else output


@contextmanager
def hooked(network, names):
    """A dict that fills with the outputs of these modules."""
    outputs = {}
    hooks = [
        network.get_submodule(name).register_forward_hook(
            lambda _, __, output, name=name: outputs.update({name: first(output)})
        )
        for name in names
    ]
    yield outputs
    for hook in hooks:
        hook.remove()


def reference(student, teacher, paths, inputs):
    """Feature distances of a student and its teacher by path, from plain hooks that keep everything, and its output."""
    with hooked(student, [own for own, _ in paths]) as own, hooked(teacher, [their for _, their in paths]) as theirs:
        with torch.no_grad():
            teacher(**inputs)
        prediction = student(**inputs).sample
    return {mine: F.mse_loss(own[mine].float(), theirs[their].float()) for mine, their in paths}, prediction


def gradients(network):
    return {
        name: parameter.grad.clone() for name, parameter in network.named_parameters() if parameter.grad is not None
    }


def assert_alike(ours, theirs, whole=1e-6, each=1e-4):
    """Gradients agree, all together relative to their norm to `whole`, and each tensor alone to `each`.

    Alone, to no less than a thousandth of the norm of all: some tensors have a gradient that is nothing but rounding,
    and in fp32 many are as far from what fp64 gives.
    """
    assert ours.keys() == theirs.keys() and len(ours) > 0
    norms = {name: gradient.norm() for name, gradient in theirs.items()}
    errors = {name: (ours[name] - gradient).norm() for name, gradient in theirs.items()}
    norm = torch.stack([*norms.values()]).norm()
    assert torch.stack([*errors.values()]).norm() <= whole * norm
    assert all(error <= each * max(norms[name], 1e-3 * norm) for name, error in errors.items())


def terms(loss, student, teacher, inputs):
    """The terms and the student's prediction, as an objective asks for them."""
    with torch.no_grad(), loss.teacher():
        teacher(**inputs)
    with loss.student():
        prediction = student(**inputs, return_dict=False)[0]
    return loss.take(), prediction


FEATURES = ("SA", "LF@DW-1", "LF@UP-2")


def small_pairs(features=FEATURES):
    return pairs(features, "bottom", SMALL.unet, SMALL.unet)
