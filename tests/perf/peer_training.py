"""An optimisation step of distillation as the published scripts do it: the peers that ours is compared with.

Written from what those scripts do:

- BK-SDM (`kd_train_text_to_image.py`): autoencoder and text encoder encode every batch anew, in low precision; the
  student runs before its teacher, under autocast; the teacher is held in low precision and runs outside of autocast.
- Segmind distill-sd (`distill_training.py`): the same, but the teacher's weights stay in fp32, under autocast, and
  features are compared in the precision they come in.
- Both: hooks put the outputs of all compared modules of both networks into a dictionary that is never emptied, and the
  mean squared errors are summed after both forwards; gradients are clipped at 1; losses go to the log at every step.

KOALA released no training code; its paper says that it adapted diffusers' script, and its loss is BK-SDM's on other
modules. So its peer is a step like BK-SDM's with both text encoders.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler
from torch import Tensor, nn

from koala.models.load import load
from koala.models.spec import ModelSpec

LEARNING_RATE, BETAS, DECAY, EPSILON, CLIP = 5e-5, (0.9, 0.999), 1e-2, 1e-8, 1.0


@dataclass(frozen=True)
class Style:
    """In what two scripts differ."""

    teacher_autocast: bool  # fp32 weights under autocast; else weights in low precision
    feature_fp32: bool  # features are compared in fp32


BK_SDM, SEGMIND = Style(False, True), Style(True, False)


@dataclass(frozen=True)
class Losses:
    """The three terms of a step, unweighted."""

    task: Tensor
    output: Tensor
    feature: Tensor


class PeerTraining:
    """A student's training; `pairs` are the modules of the teacher and of the student whose outputs are compared."""

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module,
        spec: ModelSpec,  # whose autoencoder and text encoders encode
        pairs: Sequence[tuple[str, str]],
        style: Style = BK_SDM,
        low: torch.dtype = torch.float32,
        device: str = "cpu",
    ):
        self.student = student.to(device).train().requires_grad_(True)
        self.teacher = teacher.to(device, torch.float32 if style.teacher_autocast else low).eval().requires_grad_(False)
        names = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}
        self.frozen = load(spec, device, names[low], parts=("text", "autoencoder"))
        self.optimizer = torch.optim.AdamW(student.parameters(), LEARNING_RATE, BETAS, EPSILON, DECAY)
        self.noise = DDPMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type=spec.prediction
        )
        self._pairs, self._style, self._low, self._device = pairs, style, low, torch.device(device)
        self._of_teacher: dict[str, Tensor] = {}
        self._of_student: dict[str, Tensor] = {}
        for network, kept, side in ((self.teacher, self._of_teacher, 0), (self.student, self._of_student, 1)):
            for name in dict.fromkeys(pair[side] for pair in pairs):
                network.get_submodule(name).register_forward_hook(_keeping(kept, name))

    def step(self, pixels: Tensor, captions: Sequence[str], sizes: Tensor | None) -> float:
        """Update the student once, on pixels in [-1, 1]; gives the loss before the update."""
        losses = self.losses(*self.noisy(pixels), captions, sizes)
        total = losses.task + losses.output + losses.feature
        total.backward()
        nn.utils.clip_grad_norm_(self.student.parameters(), CLIP)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return total.item()

    @torch.no_grad()
    def noisy(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Noisy latents, their timesteps and what is to be predicted."""
        autoencoder = self.frozen.autoencoder
        pixels = pixels.to(self._device, next(autoencoder.parameters()).dtype)
        latents = autoencoder.encode(pixels).latent_dist.sample() * autoencoder.config.scaling_factor
        noise = torch.randn_like(latents)
        timesteps = torch.randint(0, self.noise.config.num_train_timesteps, (len(latents),), device=self._device)
        velocity = self.noise.config.prediction_type == "v_prediction"
        target = self.noise.get_velocity(latents, noise, timesteps) if velocity else noise
        return self.noise.add_noise(latents, noise, timesteps), timesteps, target

    def losses(
        self, noisy: Tensor, timesteps: Tensor, target: Tensor, captions: Sequence[str], sizes: Tensor | None
    ) -> Losses:
        """The terms of a step, which hold the student's graph."""
        with torch.no_grad():
            condition = self.frozen.conditioner.encode(captions)
        arguments = condition.unet_arguments(None if sizes is None else sizes.to(self._device))
        with self._autocast():
            predicted = self.student(noisy, timesteps, **arguments).sample
        with torch.no_grad():
            expected = self._teach(noisy, timesteps, arguments)
        feature = sum(self._difference(teacher, student) for teacher, student in self._pairs)
        return Losses(_mse(predicted, target), _mse(predicted, expected), torch.as_tensor(feature))

    def _teach(self, noisy: Tensor, timesteps: Tensor, arguments: dict[str, Any]) -> Tensor:
        if self._style.teacher_autocast:
            with self._autocast():
                return self.teacher(noisy, timesteps, **arguments).sample
        return self.teacher(noisy.to(self._low), timesteps, **arguments).sample

    def _difference(self, teacher: str, student: str) -> Tensor:
        theirs, own = self._of_teacher[teacher], self._of_student[student]
        return _mse(own, theirs) if self._style.feature_fp32 else F.mse_loss(own, theirs)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self._device.type, self._low, enabled=self._low != torch.float32)


def _keeping(kept: dict[str, Tensor], name: str) -> Callable[..., None]:
    def hook(module: nn.Module, inputs: tuple, output: Any) -> None:
        kept[name] = output[0] if isinstance(output, tuple) else output

    return hook


def _mse(a: Tensor, b: Tensor) -> Tensor:
    return F.mse_loss(a.float(), b.float())
