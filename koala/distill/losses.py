"""What students are trained by, as pure functions: fp32 scalars, whatever the dtype of what comes in."""

from typing import Any, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from koala.errors import UnknownName

Scalar: TypeAlias = Float[Tensor, ""]
PerImage: TypeAlias = Float[Tensor, "n"]  # noqa: F821


def task_loss(prediction: Tensor, target: Tensor, weights: PerImage | None = None) -> Scalar:
    """Mean squared error against what was added (noise or velocity); `weights`: of each image, which are averaged."""
    if weights is None:
        return F.mse_loss(prediction.float(), target.float())
    errors = F.mse_loss(prediction.float(), target.float(), reduction="none").flatten(1).mean(1)
    return (weights.float() * errors).mean()


def output_loss(student: Tensor, teacher: Tensor) -> Scalar:
    """Mean squared difference between two predictions (BK-SDM equation 2, KOALA section 3.1.2)."""
    assert not teacher.requires_grad
    return F.mse_loss(student.float(), teacher.float())


def feature_distance(student: Tensor, teacher: Tensor) -> Scalar:
    """Mean squared difference between two features, as BK-SDM and KOALA sum them over places.

    Until the backward pass it keeps the difference in the student's dtype and nothing else, where `F.mse_loss` keeps
    both features in fp32.
    """
    assert student.shape == teacher.shape, (student.shape, teacher.shape)
    assert not teacher.requires_grad
    # Gradient checkpointing counts what is saved inside a checkpointed part and recomputes it; this is none of that.
    with torch.autograd.graph.saved_tensors_hooks(_same, _same):
        return _MeanSquare.apply(student, teacher)


def min_snr_weights(signal_to_noise: PerImage, gamma: float, prediction: str = "epsilon") -> PerImage:
    """Weight of each image's task loss by its timestep's ratio of signal to noise (Hang et al., 2023, section 3.4).

    It is min(SNR, gamma) for a network that predicts the sample, the same over SNR for the noise (epsilon) and over
    SNR + 1 for the velocity (v_prediction).
    """
    clipped = signal_to_noise.clamp(max=gamma)
    match prediction:
        case "epsilon":
            return (gamma / signal_to_noise).clamp(max=1)  # at no signal too
        case "v_prediction":
            return clipped / (signal_to_noise + 1)
        case "sample":
            return clipped
    raise UnknownName("kind of prediction", prediction, ("epsilon", "v_prediction", "sample"))


def distribution_matching_gradient(sample: Tensor, real: Tensor, fake: Tensor) -> Tensor:
    """Where `sample` should not go: from the critic's idea of it to the teacher's (DMD2 section 3, DMD equation 8).

    `real` and `fake` are the clean samples that teacher and critic see in the same noise. Each image's gradient is
    divided by the mean size of what the teacher would change in it; what is no number counts as 0.
    """
    scale = (sample - real).abs().flatten(1).mean(1).reshape(-1, *[1] * (sample.ndim - 1))
    return torch.nan_to_num((fake - real) / scale)


def pull(sample: Tensor, gradient: Tensor) -> Scalar:
    """A loss whose gradient in `sample` is `gradient` over the number of its elements: half of a mean square (DMD)."""
    goal = (sample.detach().double() - gradient.double()).float()
    return 0.5 * F.mse_loss(sample.float(), goal)


def with_gradient(value: Scalar, sample: Tensor, gradient: Tensor) -> Scalar:
    """`value`, with `gradient` in the place of its own with respect to `sample`."""
    return value + ((sample - sample.detach()) * gradient).sum()


def generator_gan_loss(fake: Tensor) -> Scalar:
    """The non-saturating loss of who makes fakes, from the critic's logits of them (DMD2 section 4.3)."""
    return F.softplus(-fake.float()).mean()


def critic_gan_loss(fake: Tensor, real: Tensor) -> Scalar:
    """The loss of who tells fakes (low logits) from real images (high ones), DMD2 section 4.3."""
    return F.softplus(fake.float()).mean() + F.softplus(-real.float()).mean()


class _MeanSquare(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor) -> Tensor:
        difference = student.float() - teacher.float()
        ctx.save_for_backward(difference.to(student.dtype))
        return difference.square().mean()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (difference,) = ctx.saved_tensors
        scale = gradient * (2 / difference.numel())  # in fp32: half precision would round it, or lose it
        return (difference.float() * scale).to(difference.dtype), None


def _same(tensor: Tensor) -> Tensor:
    return tensor
