"""The one training loop: batches in a fixed order, an objective's losses, optimizers, logs and checkpoints."""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any, cast

import torch
from accelerate import Accelerator
from rich.console import Console
from torch import Tensor

from koala.distill import distributed, log
from koala.distill.batch import Batch, Examples
from koala.distill.checkpoint import Keeper
from koala.distill.config import Run
from koala.distill.data import order, prefetch
from koala.distill.objective import Objective
from koala.distill.optimizers import Learner
from koala.distill.progress import TrainingProgress
from koala.distill.watch import Watch
from koala.errors import KoalaError, first_few
from koala.harness.cli import stderr_console

_MOST_IN_A_ROW = 100  # steps left out one after the other: weights that have diverged do not come back
_NAMED = 32  # images in a message
_COUNTS = ("skipped", "overflows", "in_a_row")  # as checkpoints have them


class _Stopped(KoalaError):
    """Training cannot go on, in any process."""


@dataclass(frozen=True)
class Summary:
    """How a training ended."""

    steps: int  # in all, with those of earlier starts
    images: int
    skipped: int  # steps that were left out
    seconds: float  # of this start
    checkpoint: Path  # the last one


class Trainer:
    """Trains the networks of an objective and keeps what is needed to go on in the folder `out`.

    `watch` is the stop watch that the objective uses. `sample`, where a process has one, is called with the number of
    steps done while the networks hold the weights that are published. `identity` are further settings that must not
    change between two starts. `accepted` is called in the first process once the folder is known to be this run's.
    """

    def __init__(
        self,
        run: Run,
        objective: Objective,
        examples: Examples,
        out: Path,
        accelerator: Accelerator,
        *,
        watch: Watch | None = None,
        sample: Callable[[int], None] | None = None,
        identity: Mapping[str, Any] | None = None,
        accepted: Callable[[], object] = lambda: None,
        console: Console | None = None,
    ):
        self.run, self._out, self._accelerator = run.split(accelerator.num_processes), out, accelerator
        self._objective, self._examples, self._sample, self._accepted = objective, examples, sample, accepted
        self._watch, self._waits = watch or Watch(accelerator.device), Watch(torch.device("cpu"))
        self._console = console or stderr_console()
        self.global_batch = self.run.batch_per_process * accelerator.num_processes
        if not len(examples):
            raise KoalaError("there is no image to train on")
        sizes = {"images per step": self.global_batch, "images in the data": len(examples)}
        self._keeper = Keeper(self.run, out, accelerator, {**sizes, **(identity or {})}, self._remark)
        self.learners: dict[str, Learner] = {}
        self.step = self._skipped = self._overflows = self._in_a_row = 0

    def train(self) -> Summary:
        """Train from the newest whole checkpoint, or the start, to the last step.

        Ctrl-C ends it with a checkpoint and `KeyboardInterrupt`, a loss that is no number with one and `KoalaError`.
        """
        began, accelerator = time.monotonic(), self._accelerator
        with ExitStack() as stack:
            opened = log.opened(self.run, self._out, accelerator) if accelerator.is_main_process else nullcontext()
            journal = distributed.together(accelerator, lambda: stack.enter_context(opened))
            stack.enter_context(self._wrapped())
            self._resume()
            distributed.together(accelerator, lambda: self._begin(journal))
            asked = stack.enter_context(distributed.interrupts(alone=accelerator.num_processes == 1))
            self._loop(journal, asked)
        images, seconds = self.step * self.global_batch, time.monotonic() - began
        return Summary(self.step, images, self._skipped, seconds, self._keeper.path(self.step))

    @contextmanager
    def published(self) -> Iterator[None]:
        """The networks hold the weights that are published, for sampling or saving, while the block runs."""
        with ExitStack() as stack, torch.no_grad():
            for learner in self.learners.values():
                stack.enter_context(learner.published())
                stack.callback(learner.network.train)
                learner.network.eval()
            yield

    def weights(self, name: str) -> dict[str, Tensor]:
        """The published values of what a network trains, whole in the first process; all processes must ask."""
        learner = self.learners[name]
        return distributed.whole(learner.parameters if learner.average is None else learner.average.tensors)

    @contextmanager
    def _wrapped(self) -> Iterator[None]:
        """The objective has its networks as they are trained, and at the end as they were given."""
        trained = self._objective.trained
        given = dict(trained)
        try:
            for name, network in given.items():
                learner = self.learners[name] = Learner(name, network, self.run, self._accelerator)
                trained[name] = learner.wrapped
            yield
        finally:
            trained.update(given)
            for learner in self.learners.values():
                self._accelerator.unwrap_model(learner.wrapped, keep_fp32_wrapper=False)

    # ---- the loop

    def _loop(self, journal: log.TrainingLog | None, asked: Event) -> None:
        batches = prefetch.batches(self._examples, self._places(), self.run.workers)
        bar = TrainingProgress(self.run.steps, self.step, self._console, self._accelerator.is_main_process)
        with closing(cast(Any, batches)), bar:
            while self.step < self.run.steps:
                began = time.perf_counter()
                rates = {name: learner.rate(self.step) for name, learner in self.learners.items()}
                try:
                    losses, norms, stop = self._one_step(batches, asked)
                except _Stopped:
                    self._keep(journal, rates)
                    raise
                self.step += 1
                seconds = time.perf_counter() - began
                if journal is not None:
                    journal.add(losses, norms, seconds)
                total = sum(value for name, value in losses.items() if name.endswith(f"/{log.TOTAL}"))
                bar.step(total, self.global_batch / seconds)
                self._after_step(journal, rates, stop and self.step < self.run.steps)

    def _after_step(self, journal: log.TrainingLog | None, rates: Mapping[str, float], stop: bool) -> None:
        run = self.run
        if run.sample_every and self.step % run.sample_every == 0 and not stop:
            distributed.together(self._accelerator, self._draw)
        if self.step % run.save_every == 0 or self.step == run.steps or stop:
            self._keep(journal, rates)
        elif self.step % run.log_every == 0:
            self._write_row(journal, rates)
        if stop:
            self._remark(f"interrupted after step {self.step}; the same command goes on from there")
            raise KeyboardInterrupt

    def _draw(self) -> None:
        if self._sample is not None:
            with self.published():
                self._sample(self.step)

    def _places(self) -> Iterator[tuple[Sequence[int], Sequence[int]]]:
        """Numbers and positions of the images of each micro-batch of this process.

        The images of a step are consecutive positions, which are dealt out to all processes, then again for the next
        forward pass: neither the number of processes nor accumulation changes which they are.
        """
        size, processes = self.run.batch_size, self._accelerator.num_processes
        for step in range(self.step, self.run.steps):
            for forward in range(self.run.accumulation):
                first = step * self.global_batch + (forward * processes + self._accelerator.process_index) * size
                yield self._indices(positions := range(first, first + size)), tuple(positions)

    def _indices(self, positions: Sequence[int]) -> tuple[int, ...]:
        return tuple(order.index_of(position, len(self._examples), self.run.seed) for position in positions)

    def _one_step(self, batches: Iterator[Batch], asked: Event) -> tuple[dict[str, float], dict[str, float], bool]:
        """Mean losses over all images of the step, gradient norms, and whether any process was asked to end."""
        distributed.reseed(self.run.seed, self.step, self._accelerator.process_index)
        turns = [self.learners[name] for name in self._objective.turns(self.step)]
        losses, totals = self._accumulate(turns, batches)
        scaler = self._accelerator.scaler
        norms = {learner.name: learner.clip(scaler) for learner in turns}
        flag = torch.tensor(float(asked.is_set()), device=self._accelerator.device)
        mine = torch.stack([value.double() for value in (*losses.values(), *norms.values(), flag)])
        values = self._accelerator.reduce(mine, "mean").tolist()  # the one time in a step that a GPU is waited for
        of_losses, of_norms = values[: len(losses)], values[len(losses) : -1]
        if all(map(math.isfinite, (*of_losses, *of_norms))):
            self._in_a_row = 0
            with self._watch("update"):
                for learner in turns:
                    learner.update(scaler)
        else:
            self._leave_out(all(map(math.isfinite, of_losses)), totals)
        if scaler is not None:
            scaler.update()
        for learner in turns:
            learner.optimizer.zero_grad()
        return dict(zip(losses, of_losses, strict=True)), dict(zip(norms, of_norms, strict=True)), values[-1] > 0

    def _accumulate(
        self, turns: Sequence[Learner], batches: Iterator[Batch]
    ) -> tuple[dict[str, Tensor], list[tuple[int, Tensor]]]:
        """Gradients of all forward passes; mean losses by NETWORK/PART, and each total with its first position."""
        losses: dict[str, Tensor] = {}
        totals: list[tuple[int, Tensor]] = []
        for forward in range(accumulation := self.run.accumulation):
            with self._waits("data"):
                batch = next(batches).to(self._accelerator.device, torch.float32)
            for learner in turns:
                last = forward == accumulation - 1
                with nullcontext() if last else self._accelerator.no_sync(learner.wrapped):
                    terms = self._objective.terms(learner.name, batch)
                    with self._watch("backward"):
                        self._backward(terms.total / accumulation)
                for part, value in {log.TOTAL: terms.total, **terms.parts}.items():
                    name, share = f"{learner.name}/{part}", value.detach().float() / accumulation
                    losses[name] = losses[name] + share if name in losses else share
                totals.append((batch.positions[0], terms.total.detach()))
        return losses, totals

    def _backward(self, loss: Tensor) -> None:
        # accelerate's own would divide by a number that its configuration may hold, too
        scaler = self._accelerator.scaler
        (loss if scaler is None else scaler.scale(loss)).backward()

    # ---- numbers that are none

    def _leave_out(self, losses_are_finite: bool, totals: Sequence[tuple[int, Tensor]]) -> None:
        """Do without this step's update, or raise a `KoalaError`; all processes come to the same decision."""
        self._in_a_row += 1
        if losses_are_finite and self._accelerator.scaler is not None:
            self._overflows += 1  # fp16's loss scale was too large, and is about to be halved
            what = "its gradient overflows in fp16"
        else:
            what = self._culprit(losses_are_finite, totals)
            if self.run.on_nan == "stop":
                raise _Stopped(
                    f"step {self.step}: {what}; training stopped before it. Look at these images, lower the learning "
                    "rate, or leave such steps out with --on-nan skip"
                )
            self._skipped += 1
            self._remark(f"step {self.step} is left out: {what}")
        if self._in_a_row > _MOST_IN_A_ROW:
            raise _Stopped(f"{self._in_a_row} steps in a row were left out, the last one for: {what}")

    def _culprit(self, losses_are_finite: bool, totals: Sequence[tuple[int, Tensor]]) -> str:
        first = self.step * self.global_batch
        positions = range(first, first + self.global_batch)
        if not losses_are_finite:
            bad = [position for position, total in totals if not total.isfinite()]
            mine = torch.tensor([min(bad, default=positions.stop)], device=self._accelerator.device)
            worst = int(self._accelerator.gather(mine).min())
            positions = range(worst, min(worst + self.run.batch_size, positions.stop))
        named = positions[:_NAMED]
        keys = self._examples.batch(self._indices(named), tuple(named)).keys
        what = "gradient" if losses_are_finite else "loss"
        return f"the {what} is no number, on {len(positions)} images: {first_few(keys, _NAMED)}"

    # ---- what is kept

    def _write_row(self, journal: log.TrainingLog | None, rates: Mapping[str, float]) -> None:
        spans = self._watch.take() | self._waits.take()
        facts = {
            "images": self.step * self.global_batch,
            "learning_rate": dict(rates),
            "skipped": self._skipped,
            "overflows": self._overflows,
        }
        write = (lambda: journal.write(self.step, self.global_batch, spans, facts)) if journal else (lambda: None)
        distributed.together(self._accelerator, write)

    def _keep(self, journal: log.TrainingLog | None, rates: Mapping[str, float]) -> None:
        """Write a checkpoint, and first the row up to it: means start anew there, as they do after a resume."""
        self._write_row(journal, rates)
        counts = (self._skipped, self._overflows, self._in_a_row)
        self._keeper.save(self.step, dict(zip(_COUNTS, counts, strict=True)), self.learners)

    def _resume(self) -> None:
        self.step, counts = self._keeper.resume(self.learners)
        self._skipped, self._overflows, self._in_a_row = (counts.get(name, 0) for name in _COUNTS)
        if self.step:
            self._remark(f"going on after step {self.step}")

    def _begin(self, journal: log.TrainingLog | None) -> None:
        if journal is not None:
            self._accepted()
            journal.start(self.step)

    def _remark(self, text: str) -> None:
        if self._accelerator.is_main_process:
            self._console.print(text, markup=False)
