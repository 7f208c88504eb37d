"""Knowledge distillation of U-Nets: task, output and feature terms (KOALA section 3.1.2, BK-SDM, Segmind)."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from koala.distill.batch import Batch
from koala.distill.config import Location
from koala.distill.feature_loss import FeatureLoss
from koala.distill.finetune import FineTuning, Noisy
from koala.distill.losses import output_loss
from koala.distill.matching import pairs
from koala.distill.objective import Terms
from koala.distill.prediction import converted
from koala.errors import KoalaError
from koala.models.spec import AutoencoderPlan, ModelSpec


@dataclass(frozen=True)
class Weights:
    """Of the three terms; a term of weight 0 is not computed."""

    task: float = 1.0
    output: float = 1.0
    feature: float = 1.0


class Distillation(FineTuning):
    """The objective of a student that learns from data, from its teacher's predictions and from its features.

    The teacher runs on the same noisy samples and conditions without classifier-free guidance, in the dtype it is
    held in, and is frozen. The feature term sums the mean squared errors of all pairs (BK-SDM's reading of
    KOALA's formula, which prints the sum inside the norm). min-SNR weights the task term alone: no paper weights
    the other two. `watch` takes the time of the forward passes under the names "teacher" and "student".
    """

    def __init__(
        self,
        student_spec: ModelSpec,
        student: nn.Module,
        teacher_spec: ModelSpec,
        teacher: nn.Module,
        features: Sequence[str] = (),
        location: Location = "bottom",
        weights: Weights | None = None,
        **options: Any,  # of FineTuning
    ):
        check_teacher(teacher_spec, student_spec)
        super().__init__(student_spec, student, **options)
        self.teacher_spec, self.teacher = teacher_spec, teacher.eval().requires_grad_(False)
        self._weights = weights or Weights()
        self.pairs = pairs(features, location, teacher_spec.unet, student_spec.unet) if self._weights.feature else ()
        if not (self._weights.task or self._weights.output or self.pairs):
            raise KoalaError("nothing is learnt: neither task nor output has a weight, and no features are compared")
        if not (self._weights.task or self._weights.output) and _among_others():
            raise KoalaError(
                "features alone do not reach every weight of the student, and several processes wait for all of them: "
                "give the task or the output a weight too (--task-weight, --output-weight), or train in one process"
            )
        self._features = FeatureLoss(self.pairs, student, teacher) if self.pairs else None

    def terms(self, network: str, batch: Batch) -> Terms:
        """The weighted sum of the terms, and each of them."""
        noisy = self._noisy(batch)
        expected = self._expected(noisy) if self._weights.output or self._features else None
        with self._features.student() if self._features else nullcontext():
            prediction = self._student(noisy)
        parts: dict[str, Tensor] = {}
        if self._weights.task:
            parts["task"] = self._task(prediction, noisy)
        if self._weights.output:
            parts["output"] = output_loss(prediction, expected)
        if self._features:
            parts |= self._features.take()
        total = sum(getattr(self._weights, name) * term for name, term in parts.items() if "/" not in name)
        return Terms(total, {name: term.detach() for name, term in parts.items()})

    @torch.no_grad()
    def _expected(self, noisy: Noisy) -> Tensor:
        """The teacher's prediction in the student's kind, fp32; its features are kept for the student's."""
        samples = noisy.samples
        dtype = next(self.teacher.parameters()).dtype
        seen = samples.to(self._noising.sample_dtype(dtype))
        condition = noisy.batch.to(samples.device, dtype).condition
        arguments = condition.unet_arguments(noisy.batch.sizes)  # in fp32: bf16 would round numbers of pixels
        plain = torch.autocast(samples.device.type, enabled=False)  # the student's autocast is not the teacher's
        collecting = self._features.teacher() if self._features else nullcontext()
        with self._watch("teacher"), plain, collecting:
            prediction = self.teacher(seen, noisy.timesteps, **arguments, return_dict=False)[0]
        kinds = self.teacher_spec.prediction, self.spec.prediction
        return converted(prediction, *kinds, samples, noisy.timesteps, self._noising)


def check_teacher(teacher: ModelSpec, student: ModelSpec) -> None:
    """Raise a `KoalaError` unless both are told the same about the same samples."""
    theirs, own = _inputs(teacher), _inputs(student)
    if wrong := [f"{what} ({theirs[what]} and {own[what]})" for what in own if theirs[what] != own[what]]:
        raise KoalaError(
            f"{teacher.name} cannot teach {student.name}, for they differ in {', '.join(wrong)}; choose a teacher of "
            "the student's own family"
        )


def _among_others() -> bool:
    """Whether several processes train together."""
    return torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1


def _inputs(spec: ModelSpec) -> dict[str, object]:
    """What the U-Net is given, in the words of an error."""
    autoencoder = spec.autoencoder
    return {
        "the width of the text states": spec.unet.context_dim,
        "the width of the pooled text": spec.unet.pooled_dim,
        "the number of classes": spec.unet.class_labels,
        "the channels of what they denoise": spec.unet.sample_channels,
        "the pixels per latent pixel": spec.downscale,
        "how noise is added": spec.noising,
        "the scale of the latents": autoencoder.scaling_factor if isinstance(autoencoder, AutoencoderPlan) else None,
    }
