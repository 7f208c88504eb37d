import gc
import weakref

import pytest
import torch
from tapped_networks import (
    LAST_FEATURES,
    SELF_ATTENTION,
    SMALL,
    assert_alike,
    first,
    gradients,
    hooked,
    inputs_of,
    unet_of,
)
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

from koala.distill.taps import Taps, named_modules
from koala.errors import KoalaError

NAMES = [*LAST_FEATURES, *SELF_ATTENTION]


@pytest.fixture(scope="module")
def inputs():
    return inputs_of(SMALL)


@pytest.fixture(scope="module")
def unet():
    return unet_of(SMALL, trained=False)


def num_hooks(network):
    return sum(len(module._forward_hooks) for module in network.modules())


def test_outputs_are_those_of_the_named_modules_and_the_first_of_a_tuple(unet, inputs):
    with Taps(unet, NAMES) as taps, torch.no_grad(), taps.collecting() as outputs:
        unet(**inputs)
    with hooked(unet, NAMES) as expected, torch.no_grad():
        unet(**inputs)
    assert outputs.keys() == expected.keys() and len(outputs) == len(NAMES)
    assert all(torch.equal(outputs[name], expected[name]) for name in NAMES)


def test_nothing_is_collected_outside_of_collecting(unet, inputs):
    seen = []
    with Taps(unet, NAMES, lambda name, _: seen.append(name)) as taps, torch.no_grad():
        unet(**inputs)
        assert not seen
        with taps.collecting():
            unet(**inputs)
        unet(**inputs)
    assert sorted(seen) == sorted(NAMES)


def test_hooks_are_removed_also_after_an_exception(unet, inputs):
    with pytest.raises(RuntimeError, match="on purpose"), Taps(unet, NAMES) as taps, taps.collecting():
        assert num_hooks(unet) == len(NAMES)
        raise RuntimeError("on purpose")
    assert num_hooks(unet) == 0


def test_after_an_exception_while_collecting_nothing_is_left_and_collecting_starts_afresh(unet, inputs):
    def fail(name, _):
        raise RuntimeError(f"on purpose at {name}")

    with Taps(unet, NAMES, fail) as taps, torch.no_grad():
        with pytest.raises(RuntimeError, match="at down_blocks"), taps.collecting():
            unet(**inputs)
        unet(**inputs)
        with pytest.raises(RuntimeError, match="at down_blocks"), taps.collecting():
            unet(**inputs)


def test_an_unknown_name_leaves_no_hook_and_lists_the_nearest(unet):
    with pytest.raises(KoalaError, match=r"no module 'up_block.0' .* the nearest are .*up_blocks\.0"):
        Taps(unet, [*NAMES, "up_block.0"])
    assert num_hooks(unet) == 0


def test_a_module_without_a_tensor_is_named(unet, inputs):
    with Taps(unet, [""]) as taps, pytest.raises(AssertionError, match="UNet2DConditionOutput"), taps.collecting():
        unet(**inputs)


def test_collecting_twice_at_once_is_a_mistake(unet):
    with Taps(unet, NAMES) as taps, taps.collecting(), pytest.raises(AssertionError), taps.collecting():
        pass


def test_on_output_gets_each_feature_as_it_arrives_and_nothing_keeps_it(unet, inputs):
    features, alive, order = [], [], []

    def on_output(name, feature):
        alive.append(sum(ref() is not None for ref in features))
        features.append(weakref.ref(feature))
        order.append(name)

    # A layer's output lives no longer than the sum it is part of.
    with Taps(unet, SELF_ATTENTION, on_output) as taps, torch.no_grad(), taps.collecting() as kept:
        unet(**inputs)
    assert order == SELF_ATTENTION and alive == [0] * len(SELF_ATTENTION) and kept == {}
    gc.collect()
    assert all(ref() is None for ref in features)


def step(network, names, inputs, taps, forward=None):
    """Loss and gradients of a step whose loss has every feature in it."""
    network.zero_grad()
    with taps.collecting() as outputs:
        prediction = first((network if forward is None else forward)(**inputs, return_dict=False))
    assert sorted(outputs) == sorted(names)
    loss = prediction.square().mean() + sum(outputs[name].square().mean() for name in names)
    outputs.clear()
    loss.backward()
    return loss.item(), gradients(network)


@pytest.mark.parametrize("names", [SELF_ATTENTION, LAST_FEATURES], ids=["inside", "outside"])
def test_gradients_through_features_are_the_same_with_gradient_checkpointing(names, inputs):
    unet, seen = unet_of(SMALL), []
    with Taps(unet, names) as taps:
        loss, expected = step(unet, names, inputs, taps)
        unet.enable_gradient_checkpointing()
        for name in names:
            unet.get_submodule(name).register_forward_hook(lambda *_, name=name: seen.append(name))
        checkpointed, found = step(unet, names, inputs, taps)
    assert checkpointed == loss
    assert_alike(found, expected)
    recomputed = len(seen) - len(names)  # by plain hooks, which the backward pass fires again
    assert recomputed == (len(names) if names is SELF_ATTENTION else 0)


@pytest.mark.parametrize("checkpointing", [False, True], ids=["", "checkpointed"])
def test_a_compiled_network_hands_over_the_same_features_in_one_graph(inputs, checkpointing):
    torch._dynamo.reset()
    names, unet = SELF_ATTENTION, unet_of(SMALL)
    with Taps(unet, names) as taps:
        loss, expected = step(unet, names, inputs, taps)
        if checkpointing:
            unet.enable_gradient_checkpointing()
        compiled = torch.compile(unet, backend="aot_eager" if checkpointing else "eager", fullgraph=True)
        for _ in range(2):
            compiled_loss, found = step(unet, names, inputs, taps, compiled)
            assert compiled_loss == pytest.approx(loss, rel=1e-6)
            assert_alike(found, expected)
        assert not torch._dynamo.utils.counters["graph_break"]


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(4, 4)

    def forward(self, x):
        return torch.tanh(self.inner(x)), x


class Stack(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(3))

    def forward(self, x):
        for block in self.blocks:
            x = block(x)[0]
        return x


def test_a_compiled_network_that_ran_without_collecting_still_hands_over_and_keeps_nothing_else():
    torch._dynamo.reset()
    stack, x, seen = Stack(), torch.randn(2, 4), []
    with Taps(stack, ["blocks.0", "blocks.2.inner"], lambda name, _: seen.append(name)) as taps, torch.no_grad():
        compiled = torch.compile(stack, backend="eager", fullgraph=True)
        for _ in range(2):
            compiled(x)
            with taps.collecting():
                compiled(x)
        compiled(x)
    assert seen == 2 * ["blocks.0", "blocks.2.inner"] and not taps._traced


def test_a_network_that_ran_compiled_before_it_was_tapped_hands_over_nothing():
    # torch.compile takes the hooks of its first call for those of all; FeatureLoss names the modules that never came
    torch._dynamo.reset()
    stack, x = Stack(), torch.randn(2, 4)
    compiled = torch.compile(stack, backend="eager")
    compiled(x)
    with Taps(stack, ["blocks.0"]) as taps, taps.collecting() as outputs:
        compiled(x)
    assert outputs == {}


@pytest.mark.timeout(120)
def test_a_network_compiled_to_machine_code_hands_over_the_same_features():
    torch._dynamo.reset()
    torch.manual_seed(0)
    stack, x = Stack(), torch.randn(2, 4)
    names = ["blocks.0", "blocks.1.inner"]
    with Taps(stack, names) as taps:
        with taps.collecting() as expected:
            stack(x)
        with torch._inductor.config.patch(compile_threads=1), taps.collecting() as outputs:
            torch.compile(stack, backend="inductor")(x)
    for name in names:
        torch.testing.assert_close(outputs[name], expected[name])
        assert outputs[name].requires_grad


def test_names_are_those_of_the_bare_network_in_every_wrapper():
    names = set(named_modules(Stack()))
    checkpointed = Stack()
    checkpointed.blocks[1] = checkpoint_wrapper(checkpointed.blocks[1])
    parallel = nn.DataParallel(Stack())  # keeps it as `module`, as DDP does
    for wrapped in (checkpointed, parallel, torch.compile(Stack()), torch.compile(parallel)):
        assert set(named_modules(wrapped)) == names


def test_a_wrapped_block_is_tapped_once_in_the_forward_pass():
    torch.manual_seed(0)
    stack, x = Stack(), torch.randn(2, 4)
    stack.blocks[1] = checkpoint_wrapper(stack.blocks[1])
    seen = []
    with Taps(stack, ["blocks.1"], lambda name, feature: seen.append(feature)) as taps:
        with taps.collecting():
            loss = stack(x).sum()
        (loss + seen[0].square().sum()).backward()
    assert len(seen) == 1 and isinstance(named_modules(stack)["blocks.1"], Block)
