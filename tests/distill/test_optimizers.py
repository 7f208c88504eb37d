"""Optimizers and learning rates, and the optimizer's state by names."""

import json
import sys
from types import SimpleNamespace

import pytest
import torch
from diffusers.optimization import get_scheduler
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from toy import toy_run

from koala.distill import optimizers
from koala.distill.optimizers import build, learning_rate, restore_state, state_numbers, state_tensors
from koala.errors import KoalaError

CPU = torch.device("cpu")


def parameters():
    generator = torch.Generator().manual_seed(0)
    return {f"layer.{i}": nn.Parameter(torch.randn(2 + i, 3, generator=generator)) for i in range(3)}


def step(optimizer, values, seed):
    generator = torch.Generator().manual_seed(seed)
    for value in values:
        value.grad = torch.randn(value.shape, generator=generator)
    optimizer.step()


def test_adamw_is_built_from_the_run_and_updates_all_parameters_in_one_kernel():
    run = toy_run(learning_rate=3e-4, betas=(0.8, 0.95), weight_decay=0.1, epsilon=1e-6)
    values = list(parameters().values())
    group = build(run, values, CPU).param_groups[0]
    assert (group["lr"], group["betas"], group["weight_decay"], group["eps"]) == (3e-4, (0.8, 0.95), 0.1, 1e-6)
    assert group["fused"] and group["params"] == values
    assert not build(run, values, torch.device("meta")).param_groups[0]["fused"]


def test_a_missing_bitsandbytes_is_an_error_that_names_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", None)
    with pytest.raises(KoalaError, match="--optimizer adamw8bit needs the package bitsandbytes"):
        build(toy_run(optimizer="adamw8bit"), list(parameters().values()), CPU)


def test_the_eight_bit_optimizer_gets_the_settings_of_the_run(monkeypatch):
    given = {}
    module = SimpleNamespace(AdamW8bit=lambda values, **settings: given.update(settings) or torch.optim.SGD(values))
    monkeypatch.setattr(optimizers, "import_module", lambda name: {"bitsandbytes.optim": module}[name])
    build(toy_run(optimizer="adamw8bit", epsilon=1e-7), list(parameters().values()), CPU)
    assert given == {"lr": 1e-2, "betas": (0.9, 0.999), "eps": 1e-7, "weight_decay": 1e-2}


@given(
    schedule=st.sampled_from(["constant", "cosine", "linear"]),
    warmup=st.integers(0, 20),
    steps=st.integers(1, 60),
)
@settings(deadline=None)
def test_the_learning_rate_of_a_step_is_that_of_diffusers_schedule(schedule, warmup, steps):
    rate = learning_rate(toy_run(schedule=schedule, warmup=warmup, steps=steps, learning_rate=0.3))
    optimizer = torch.optim.SGD([torch.zeros(())], lr=0.3)
    name = "constant_with_warmup" if schedule == "constant" else schedule
    reference = get_scheduler(name, optimizer, num_warmup_steps=warmup, num_training_steps=steps)
    for at in range(steps):
        assert rate(at) == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-15)
        optimizer.step()
        reference.step()


MAKERS = {
    "AdamW": lambda values: torch.optim.AdamW(values, fused=True),
    "AdamW, one by one": lambda values: torch.optim.AdamW(values, foreach=False),
    "SGD with momentum": lambda values: torch.optim.SGD(values, lr=0.1, momentum=0.9),
    "SGD, which has no state": lambda values: torch.optim.SGD(values, lr=0.1),
    "Adafactor, whose moments have other shapes": torch.optim.Adafactor,
}


@pytest.mark.parametrize("maker", MAKERS)
def test_a_restored_optimizer_goes_on_to_the_bit(maker):
    whole, broken = parameters(), parameters()
    first = MAKERS[maker](list(whole.values()))
    second = MAKERS[maker](list(broken.values()))
    for seed in range(3):
        step(first, whole.values(), seed)
        step(second, broken.values(), seed)
    tensors = {name: tensor.clone() for name, tensor in state_tensors(second, list(broken)).items()}
    numbers = json.loads(json.dumps(state_numbers(second, list(broken))))
    third = MAKERS[maker](list(broken.values()))
    restore_state(third, broken, tensors, numbers)
    for seed in range(3, 6):
        step(first, whole.values(), seed)
        step(third, broken.values(), seed)
    assert all(torch.equal(whole[name], broken[name]) for name in whole)


class Numbers(torch.optim.Optimizer):
    """An optimizer whose state holds numbers, and tables within a table, as that of bitsandbytes does."""

    def __init__(self, values):
        super().__init__(values, {"lr": 1.0})

    def step(self):
        for value in self.param_groups[0]["params"]:
            state = self.state[value]
            state["step"] = state.get("step", 0) + 1
            state["unused"] = None
            state["tables"] = {"map": {"first": torch.arange(4, dtype=torch.uint8)}, "bits": 8}
            value.data -= state["step"] * value.grad


def test_numbers_and_tables_in_the_state_are_kept_too():
    values = parameters()
    optimizer = Numbers(list(values.values()))
    step(optimizer, values.values(), 0)
    tensors, numbers = (state(optimizer, list(values)) for state in (state_tensors, state_numbers))
    assert tensors.keys() == {f"layer.{i}/tables/map/first" for i in range(3)}
    assert numbers["layer.1/step"] == 1 and numbers["layer.1/unused"] is None
    other = Numbers(list(values.values()))
    restore_state(other, values, tensors, numbers)
    for value in values.values():
        mine, theirs = other.state[value], optimizer.state[value]
        assert torch.equal(mine["tables"]["map"].pop("first").byte(), theirs["tables"]["map"].pop("first"))
        assert mine == theirs == {"step": 1, "unused": None, "tables": {"map": {}, "bits": 8}}
