"""The smallest objective and data that the trainer takes: a network of 76 weights that finds noise in 4x4 latents."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import nn

from koala.distill.batch import Batch
from koala.distill.config import Run
from koala.distill.objective import Terms
from koala.models.conditioning import Condition


def toy_run(**changes) -> Run:
    """A short run in fp32 on the CPU, which writes a checkpoint at every fourth step."""
    run = Run(
        student="toy",
        student_weights="random",
        steps=12,
        batch_size=4,
        learning_rate=1e-2,
        ema_decay=0.9,
        precision="fp32",
        workers=0,
        save_every=4,
        log_every=1,
        tracker="none",
        device="cpu",
    )
    return replace(run, **changes)


class ToyNetwork(nn.Module):
    """Two convolutions with dropout between them, a frozen one, and if asked one that nothing depends on."""

    def __init__(self, seed: int = 0, dropout: float = 0.0, width: int = 8, idle: bool = False):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.first, self.last, self.frozen = nn.Conv2d(4, width, 1), nn.Conv2d(width, 4, 1), nn.Conv2d(4, 4, 1)
        self.frozen.requires_grad_(False)
        self.dropout = nn.Dropout(dropout)
        self.idle = nn.Conv2d(4, 4, 1) if idle else None

    def forward(self, noisy):
        return self.last(self.dropout(torch.tanh(self.first(self.frozen(noisy)))))


class ToyExamples:
    """Latents that are their number's own random values; images in `broken` are no numbers."""

    def __init__(self, n: int = 50, broken: Sequence[int] = ()):
        self.n, self.broken = n, frozenset(broken)

    def __len__(self) -> int:
        return self.n

    def batch(self, indices: Sequence[int], positions: Sequence[int]) -> Batch:
        rows = [torch.randn(4, 4, 4, generator=torch.Generator().manual_seed(index)) for index in indices]
        clean = torch.stack(rows)
        clean[[index in self.broken for index in indices]] = float("nan")
        keys = tuple(f"image-{index}" for index in indices)
        context = torch.zeros(len(rows), 2, 3)
        return Batch(clean, Condition(context), None, tuple(positions), keys, ("",) * len(rows))

    def empty(self) -> Condition:
        return Condition(torch.zeros(1, 2, 3))


class ToyObjective:
    """Finds noise that is drawn by position; a second network, if there is one, learns at every third step."""

    def __init__(self, network: nn.Module | None = None, critic: nn.Module | None = None):
        self.trained = {"unet": network or ToyNetwork()} | ({"critic": critic} if critic else {})
        self.seen: list[tuple[tuple[str, ...], tuple[int, ...]]] = []

    def turns(self, step: int) -> Sequence[str]:
        return ("unet", "critic") if "critic" in self.trained and step % 3 == 0 else ("unet",)

    def terms(self, network: str, batch: Batch) -> Terms:
        if network == "unet":
            self.seen.append((batch.keys, batch.positions))
        noise = torch.stack(
            [torch.randn(4, 4, 4, generator=torch.Generator().manual_seed(1000 + p)) for p in batch.positions]
        ).to(batch.clean)
        error = (self.trained[network](batch.clean + noise) - noise).square()
        parts = {"task": error.mean().detach(), "task/channel-0": error[:, 0].mean().detach()}
        return Terms(error.mean(), parts)
