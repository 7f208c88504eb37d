"""DMD2: a generator of a few steps, trained by the difference of two scores and a GAN (Yin et al., NeurIPS 2024)."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from koala.distill.batch import Batch
from koala.distill.critic import Critic, Seen
from koala.distill.data.order import number_below
from koala.distill.finetune import Watch, unwatched
from koala.distill.losses import (
    critic_gan_loss,
    distribution_matching_gradient,
    generator_gan_loss,
    pull,
    task_loss,
    with_gradient,
)
from koala.distill.noise import integers, normal
from koala.distill.objective import Terms, in_training
from koala.distill.prediction import add_noise, clean_of, target
from koala.distill.regression import Distance, drawn_size, regression_loss
from koala.models.conditioning import Condition
from koala.models.noising import noising
from koala.models.spec import ModelSpec
from koala.types import Latents, Timesteps

GENERATOR, CRITIC = "unet", "critic"
REAL, PAIRS = "real", "pairs"  # names of further data: real images, where they are others than the prompts'; pairs


_LOOKED_AT = 500  # the timestep at which both scores are shown


@dataclass(frozen=True)
class Matching:
    """The numbers of DMD2; defaults are those of SDXL in four steps."""

    timesteps: tuple[int, ...] = (999, 749, 499, 249)  # the generator's
    guidance: float = 8.0  # of the teacher
    ratio: int = 5  # updates of the critic for one of the generator (two time-scale update rule, section 4.2)
    weight: float = 1.0  # of the distribution matching loss
    gan_weight: float = 5e-3  # of the GAN in the generator's loss
    critic_gan_weight: float = 1e-2  # in the critic's; 0: no GAN
    regression_weight: float = 0.0  # of the distance to the teacher's images of pairs (DMD's regularisation)
    simulated: bool = True  # inputs of later steps are the generator's own (section 4.5), not noisy real images
    span: tuple[int, int] = (20, 980)  # timesteps at which the two scores are compared, both included


class DistributionMatching:
    """The objective of a generator ("unet") and of the critic that follows it ("critic").

    The generator learns at every `ratio`-th step, the critic at each, on what the generator draws for the same batch.
    `unconditional` is the one row that the teacher's guidance contrasts with; `distance` is that of the regression.
    Real images are `batch.others["real"]`, or the batch's own. `watch` takes the time under the names "generator",
    "critic" and "teacher".
    """

    def __init__(
        self,
        spec: ModelSpec,
        generator: nn.Module,
        teacher_spec: ModelSpec,
        teacher: nn.Module,
        critic_spec: ModelSpec,
        critic: Critic,
        unconditional: Condition,
        matching: Matching | None = None,
        seed: int = 0,
        distance: Distance = F.mse_loss,
        watch: Watch = unwatched,
    ):
        self.spec, self.teacher_spec, self.critic_spec = spec, teacher_spec, critic_spec
        self._noising = noising(spec.noising)  # all three have the same
        self.trained: dict[str, nn.Module] = {
            GENERATOR: in_training(generator),
            CRITIC: critic.requires_grad_(True).train(),
        }
        self.teacher = teacher.eval().requires_grad_(False)
        self.matching, self._seed = matching or Matching(), seed
        self._distance, self._watch = distance, watch
        self._unconditional = unconditional
        self._index = 0  # which of the generator's steps is trained at this step
        self._fakes: tuple[tuple[int, ...], Latents] | None = None  # what the generator's turn drew for a batch

    def turns(self, step: int) -> Sequence[str]:
        """The generator first, whose images of this step the critic then learns."""
        self._index = number_below(len(self.matching.timesteps), self._seed, step, "generator's step")
        return (GENERATOR, CRITIC) if step % self.matching.ratio == 0 else (CRITIC,)

    def terms(self, network: str, batch: Batch) -> Terms:
        """The loss of the generator or of the critic."""
        batch = self._prepared(batch)
        if network == GENERATOR:
            fake = self._generate(batch, learning=True)
            self._fakes = (batch.positions, fake.detach())
            return self._of_generator(fake, batch)
        known, self._fakes = self._fakes, None
        again = known is not None and known[0] == batch.positions
        return self._of_critic(known[1] if known and again else self._generate(batch, learning=False), batch)

    @torch.no_grad()
    def look(self, batch: Batch) -> dict[str, Latents]:
        """What the generator draws for a batch, and what teacher and critic see in it with noise: drift shows there."""
        batch = self._prepared(batch)
        fake = self._generate(batch, learning=False)
        real, imagined = self._scores(fake, "look", _all(_LOOKED_AT, fake), batch)
        return {"generator": fake, "teacher": real.float(), "critic": imagined.float()}

    # ---- what the generator draws

    def _generate(self, batch: Batch, learning: bool) -> Latents:
        """Clean samples, fp32, from one step of the generator; only that one step is `learning`."""
        noisy, timesteps = self._inputs(batch)
        with nullcontext() if learning else torch.no_grad():
            return self._drawn(noisy, timesteps, batch)

    @torch.no_grad()
    def _inputs(self, batch: Batch) -> tuple[Latents, Timesteps]:
        """What the trained step starts from: noise for the first one."""
        schedule = self.matching.timesteps
        noise = self._normal(batch, "start")
        start = self._noising.start(noise, schedule[0])
        if not self.matching.simulated and len(schedule) > 1:
            # without simulation each image has a step of its own, on a real image with noise
            drawn = integers(batch.positions, self._seed, "step", 0, len(schedule))
            timesteps = torch.tensor(schedule)[drawn].to(noise.device)
            first = (drawn == 0).to(noise.device)[:, None, None, None]
            return torch.where(first, start, self._added(batch.clean, noise, timesteps)), timesteps
        state = start
        for i in range(self._index):
            clean = self._drawn(state, _all(schedule[i], state), batch)
            state = self._added(clean, self._normal(batch, f"step {i + 1}"), _all(schedule[i + 1], state))
        return state, _all(schedule[self._index], state)

    def _drawn(self, noisy: Latents, timesteps: Timesteps, batch: Batch) -> Latents:
        generator = self.trained[GENERATOR] if torch.is_grad_enabled() else _unwrapped(self.trained[GENERATOR])
        with self._watch("generator"):
            arguments = batch.condition.unet_arguments(batch.sizes)
            prediction = generator(noisy, timesteps, **arguments, return_dict=False)[0]
        return clean_of(self.spec.prediction, prediction, noisy, timesteps, self._noising).float()

    # ---- the generator's loss

    def _of_generator(self, fake: Latents, batch: Batch) -> Terms:
        numbers, drawn = self.matching, fake.detach()
        parts = {"brightness": drawn.mean(), "variance": drawn.flatten(1).var(dim=1).mean()}
        total = fake.new_zeros(())
        if numbers.weight:
            gradient = self._gradient(drawn, batch)
            matching = pull(fake, gradient)
            total = total + numbers.weight * matching
            parts |= {"matching": matching.detach(), "gradient": gradient.float().flatten(1).norm(dim=1).mean()}
        if numbers.gan_weight:
            gan = self._judged_by_critic(fake, batch)
            total = total + numbers.gan_weight * gan
            parts["gan"] = gan.detach()
        if numbers.regression_weight:
            regression = self._regression(batch.others[PAIRS])
            total = total + numbers.regression_weight * regression
            parts["regression"] = regression.detach()
        return Terms(total, parts)

    def _regression(self, pairs: Batch) -> Tensor:
        pairs = drawn_size(pairs.to(pairs.clean.device, torch.float32), self.spec)
        with self._watch("generator"):
            first = self.matching.timesteps[0]
            return regression_loss(self.spec, self.trained[GENERATOR], first, pairs, self._distance)

    @torch.no_grad()
    def _gradient(self, fake: Latents, batch: Batch) -> Tensor:
        """The distribution matching gradient, float64."""
        low, high = self.matching.span
        timesteps = self._timesteps(batch, "matching", low, high + 1)
        return distribution_matching_gradient(fake.double(), *self._scores(fake, "matching", timesteps, batch))

    @torch.no_grad()
    def _scores(self, fake: Latents, stream: str, timesteps: Timesteps, batch: Batch) -> tuple[Latents, Latents]:
        """The clean samples that teacher and critic see in fakes with noise, float64."""
        noisy = self._added(fake, self._normal(batch, stream), timesteps)
        with self._watch("teacher"):
            real = self._teachers(noisy, timesteps, batch)
        with self._watch("critic"):
            seen = Seen(noisy, timesteps, batch.condition.unet_arguments(batch.sizes))
            prediction = _unwrapped(self.trained[CRITIC])(seen)[0]
        return real, clean_of(self.critic_spec.prediction, prediction, noisy, timesteps, self._noising)

    def _teachers(self, noisy: Latents, timesteps: Timesteps, batch: Batch) -> Latents:
        """What the teacher takes for the clean sample, guided; in its own dtype, without the generator's autocast."""
        dtype = next(self.teacher.parameters()).dtype
        guided = self.matching.guidance != 1
        condition, sizes = batch.condition, batch.sizes
        if guided:
            n = len(noisy)
            condition = condition.below(self._unconditional.map(lambda f: f.to(noisy.device).repeat_interleave(n, 0)))
            sizes = None if sizes is None else torch.cat([sizes, sizes])
        condition = condition.map(lambda f: f.to(dtype) if f.is_floating_point() else f)
        repeated = 2 if guided else 1
        with torch.autocast(noisy.device.type, enabled=False):
            prediction = self.teacher(
                torch.cat([noisy] * repeated).to(self._noising.sample_dtype(dtype)),
                torch.cat([timesteps] * repeated),
                **condition.unet_arguments(sizes),
                return_dict=False,
            )[0].double()
        if guided:
            without, told = prediction.chunk(2)
            prediction = without + self.matching.guidance * (told - without)
        return clean_of(self.teacher_spec.prediction, prediction, noisy, timesteps, self._noising)

    def _judged_by_critic(self, fake: Latents, batch: Batch) -> Tensor:
        """The GAN loss, whose gradient reaches the generator and not the critic."""
        leaf = fake.detach().requires_grad_()
        seen = self._noisy(leaf, batch, "generator's gan")
        with torch.enable_grad(), self._watch("critic"):
            loss = generator_gan_loss(_unwrapped(self.trained[CRITIC])(None, seen)[1])
            (gradient,) = torch.autograd.grad(loss, leaf)
        return with_gradient(loss.detach(), fake, gradient)

    # ---- the critic's loss

    def _of_critic(self, fake: Latents, batch: Batch) -> Terms:
        timesteps = self._timesteps(batch, "critic", 0, self._noising.num_timesteps)
        noise = self._normal(batch, "critic")
        noisy = self._added(fake, noise, timesteps)
        denoised = Seen(noisy, timesteps, batch.condition.unet_arguments(batch.sizes))
        judged = self._judged(fake, batch) if self.matching.critic_gan_weight else None
        with self._watch("critic"):
            prediction, logits = self.trained[CRITIC](denoised, judged)
        right = target(self.critic_spec.prediction, fake, noise, timesteps, self._noising)
        task = task_loss(prediction, right, self._noising.weights(timesteps))
        if logits is None:
            return Terms(task, {"task": task.detach()})
        of_fake, of_real = logits.split([len(fake), len(logits) - len(fake)])
        gan = critic_gan_loss(of_fake, of_real)
        parts = {"task": task, "gan": gan, "logit/fake": of_fake.float().mean(), "logit/real": of_real.float().mean()}
        total = task + self.matching.critic_gan_weight * gan
        return Terms(total, {name: value.detach() for name, value in parts.items()})

    def _judged(self, fake: Latents, batch: Batch) -> Seen:
        """Fakes, then real images, each with noise of its own timestep (diffused GAN)."""
        real = self._prepared(batch.others[REAL]) if REAL in batch.others else batch
        both = self._noisy(fake, batch, "fake"), self._noisy(real.clean, real, "real")
        condition = Condition.stacked((batch.condition, real.condition))
        sizes = None if batch.sizes is None or real.sizes is None else torch.cat([batch.sizes, real.sizes])
        samples, timesteps = (torch.cat(pair) for pair in zip(*(seen[:2] for seen in both), strict=True))
        return Seen(samples, timesteps, condition.unet_arguments(sizes))

    # ---- noise

    def _noisy(self, clean: Latents, batch: Batch, stream: str) -> Seen:
        timesteps = self._timesteps(batch, stream, 0, self._noising.num_timesteps)
        noisy = self._added(clean, self._normal(batch, stream), timesteps)
        return Seen(noisy, timesteps, batch.condition.unet_arguments(batch.sizes))

    def _added(self, clean: Latents, noise: Latents, timesteps: Timesteps) -> Latents:
        return add_noise(clean, noise, timesteps, self._noising)

    def _normal(self, batch: Batch, stream: str) -> Latents:
        shape = tuple(batch.clean.shape[1:])
        return normal(batch.positions, self._seed, stream, shape).to(batch.clean.device, non_blocking=True)

    def _timesteps(self, batch: Batch, stream: str, low: int, high: int) -> Timesteps:
        drawn = integers(batch.positions, self._seed, f"{stream}, timestep", low, high)
        return drawn.to(batch.clean.device, non_blocking=True)

    def _prepared(self, batch: Batch) -> Batch:
        return drawn_size(batch.to(batch.clean.device, torch.float32), self.spec)


def _all(timestep: int, samples: Tensor) -> Timesteps:
    return torch.full((len(samples),), timestep, device=samples.device)


def _unwrapped(network: nn.Module) -> Any:
    """The network without what would reduce its gradients over processes."""
    return network.module if isinstance(network, DistributedDataParallel) else network
