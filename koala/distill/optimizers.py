"""Networks with what trains them: optimizer, learning rate and average, saved and restored by parameters' names."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from importlib import import_module
from typing import Any

import torch
from accelerate import Accelerator
from diffusers.optimization import get_scheduler
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from koala.distill import distributed
from koala.distill.average import Average
from koala.distill.config import Run
from koala.errors import KoalaError

_FUSED = ("cpu", "cuda", "xpu", "mps")  # where torch has a kernel that updates all parameters at once


def build(run: Run, parameters: Sequence[nn.Parameter], device: torch.device) -> Optimizer:
    """The optimizer of `run` over `parameters`, which are all treated alike; a missing package is a `KoalaError`."""
    settings: dict[str, Any] = {
        "lr": run.learning_rate,
        "betas": run.betas,
        "eps": run.epsilon,
        "weight_decay": run.weight_decay,
    }
    if run.optimizer == "adamw":
        return torch.optim.AdamW(parameters, **settings, fused=device.type in _FUSED)
    try:
        eight_bit = import_module("bitsandbytes.optim")
    except ImportError as error:
        raise KoalaError(
            f"--optimizer {run.optimizer} needs the package bitsandbytes ({error}): pip install bitsandbytes"
        ) from error
    return eight_bit.AdamW8bit(parameters, **settings)


def learning_rate(run: Run) -> Callable[[int], float]:
    """The learning rate of a step, counted from 0: diffusers' formulas, with nothing that a checkpoint has to keep."""
    name = "constant_with_warmup" if run.schedule == "constant" else run.schedule
    unused = torch.optim.SGD([torch.zeros(())], lr=1.0)
    factor = get_scheduler(name, unused, num_warmup_steps=run.warmup, num_training_steps=run.steps).lr_lambdas[0]
    return lambda step: run.learning_rate * factor(step)


class Learner:
    """A network in training: `network` as it was given, `wrapped` as it must be called."""

    def __init__(self, name: str, network: nn.Module, run: Run, accelerator: Accelerator):
        trained = {key: value for key, value in network.named_parameters() if value.requires_grad}
        assert trained, f"nothing of {name} requires a gradient"
        assert all(value.dtype == torch.float32 for value in trained.values()), f"{name} is not trained in fp32"
        self.name, self._clip_norm, self._rate = name, run.clip_norm, learning_rate(run)
        _prepare(network, run)
        optimizer = build(run, list(trained.values()), accelerator.device)
        self.wrapped, prepared = accelerator.prepare(network, optimizer)
        # accelerate's own optimizer updates the loss scale after each network, which must be done once after all.
        self.optimizer: Optimizer = prepared.optimizer
        self.network = network
        now = [parameter for parameter in network.parameters() if parameter.requires_grad]  # FSDP made new ones
        self.parameters: dict[str, nn.Parameter] = dict(zip(trained, now, strict=True))
        self.average = Average(self.parameters, run.ema_decay) if run.ema_decay else None

    def rate(self, step: int) -> float:
        """Set and return the learning rate of a step."""
        for group in self.optimizer.param_groups:
            group["lr"] = self._rate(step)
        return self._rate(step)

    def clip(self, scaler: torch.amp.GradScaler | None) -> Tensor:
        """The norm of the gradient, which is then cut down to the run's bound; not finite where the gradient is not."""
        if scaler is not None:
            scaler.unscale_(self.optimizer)
        gradients = [value.grad for value in self.parameters.values() if value.grad is not None]
        norm = nn.utils.get_total_norm(gradients)
        norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
        if self._clip_norm:
            nn.utils.clip_grads_with_norm_(list(self.parameters.values()), self._clip_norm, norm)
        return norm

    def update(self, scaler: torch.amp.GradScaler | None) -> None:
        """Follow the gradient; the average follows the weights."""
        if scaler is None:
            self.optimizer.step()
        else:
            scaler.step(self.optimizer)
        if self.average is not None:
            self.average.update()

    def published(self) -> Any:
        """A context in which the network has the weights that are published: the average, if there is one."""
        return nullcontext() if self.average is None else self.average.in_place()

    def files(self) -> Iterator[tuple[str, Mapping[str, Tensor]]]:
        """What a checkpoint keeps as tensors, by the name of its file; all processes go through it together."""
        yield self.name, distributed.whole(self.parameters)
        if self.average is not None:
            yield f"{self.name}.average", distributed.whole(self.average.tensors)
        yield f"{self.name}.optimizer", distributed.whole(state_tensors(self.optimizer, list(self.parameters)))

    def numbers(self) -> dict[str, Any]:
        """What a checkpoint keeps as JSON."""
        return {
            "optimizer": state_numbers(self.optimizer, list(self.parameters)),
            "average_updates": self.average.updates if self.average is not None else 0,
        }

    def restore(self, numbers: Mapping[str, Any], read: Callable[[str], Mapping[str, Tensor]]) -> None:
        """Go on from what `files` and `numbers` gave; `read` returns the tensors of a file."""
        distributed.fill(self.parameters, read(self.name))
        if self.average is not None:
            distributed.fill(self.average.tensors, read(f"{self.name}.average"))
            self.average.went_on(numbers["average_updates"])
        restore_state(self.optimizer, self.parameters, read(f"{self.name}.optimizer"), numbers["optimizer"])


def _prepare(network: nn.Module, run: Run) -> None:
    network.train()
    if run.gradient_checkpointing:
        # diffusers' name, then that of transformers
        enable = getattr(network, "enable_gradient_checkpointing", None)
        enable = enable or getattr(network, "gradient_checkpointing_enable", None)
        if enable is None:
            raise KoalaError(f"{type(network).__name__} knows no --gradient-checkpointing; leave that out")
        enable()
    if run.compile:
        network.compile()  # in place: names, hooks and wrappers stay what they are


def state_tensors(optimizer: Optimizer, names: Sequence[str]) -> dict[str, Tensor]:
    """The tensors of an optimizer's state as "parameter/entry/..."; `names` are its parameters in order."""
    return {key: value for key, value in _state(optimizer, names) if isinstance(value, Tensor)}


def state_numbers(optimizer: Optimizer, names: Sequence[str]) -> dict[str, Any]:
    """The rest of an optimizer's state as "parameter/entry/..."."""
    return {key: value for key, value in _state(optimizer, names) if not isinstance(value, Tensor)}


def _state(optimizer: Optimizer, names: Sequence[str]) -> Iterator[tuple[str, Any]]:
    for index, entries in optimizer.state_dict()["state"].items():
        yield from _leaves(entries, names[index])


def _leaves(entries: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for entry, value in entries.items():  # bitsandbytes nests its tables
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}/{entry}")
        else:
            yield f"{prefix}/{entry}", value


def restore_state(
    optimizer: Optimizer,
    parameters: Mapping[str, nn.Parameter],
    tensors: Mapping[str, Tensor],
    numbers: Mapping[str, Any],
) -> None:
    """Give an optimizer the state that `state_tensors` and `state_numbers` took."""
    indices = {name: index for index, name in enumerate(parameters)}
    state: dict[int, dict[str, Any]] = {}
    for key, value in {**tensors, **numbers}.items():
        name, *path, entry = key.split("/")
        entries = state.setdefault(indices[name], {})
        for step in path:
            entries = entries.setdefault(step, {})
        # moments have the shape of their parameter and are sharded as it is
        moment = isinstance(value, Tensor) and value.shape == parameters[name].shape
        entries[entry] = distributed.sharded(value, parameters[name]) if moment else value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
