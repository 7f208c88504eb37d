import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from koala.distill.average import Average


def parameters(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {
        name: nn.Parameter(torch.randn(size, generator=generator)) for name, size in (("a.weight", (3, 2)), ("b", (5,)))
    }


def moved(values, step):
    with torch.no_grad():
        for value in values.values():
            value.add_(torch.randn(value.shape, generator=torch.Generator().manual_seed(step)))


@given(decay=st.floats(0.01, 0.9999), updates=st.integers(1, 30))
@settings(deadline=None)
def test_it_is_the_moving_average_with_a_decay_that_grows(decay, updates):
    values = parameters()
    average = Average(values, decay)
    expected = {name: value.detach().double() for name, value in values.items()}
    for n in range(updates):
        moved(values, n)
        average.update()
        share = min(decay, (1 + n) / (10 + n)) if n else 0.0
        expected = {name: share * mean + (1 - share) * values[name].detach() for name, mean in expected.items()}
    assert average.updates == updates
    for name, mean in expected.items():
        torch.testing.assert_close(average.tensors[name].double(), mean, atol=1e-5, rtol=1e-5)


def test_it_goes_on_from_what_was_kept_of_it_to_the_bit():
    values, others = parameters(), parameters()
    whole, first, second = Average(values, 0.9), Average(others, 0.9), None
    for n in range(12):
        moved(values, n)
        whole.update()
        moved(others, n)
        if n < 7:
            first.update()
            continue
        if second is None:
            second = Average(others, 0.9)
            for name, tensor in second.tensors.items():
                tensor.copy_(first.tensors[name])
            second.went_on(first.updates)
        second.update()
    assert all(torch.equal(tensor, second.tensors[name]) for name, tensor in whole.tensors.items())


def test_it_stands_in_the_weights_place_for_a_while_even_through_an_error():
    values = parameters()
    average = Average(values, 0.9)
    for n in range(5):
        moved(values, n)
        average.update()
    weights, means = ({k: v.detach().clone() for k, v in those.items()} for those in (values, average.tensors))
    assert not torch.equal(weights["b"], means["b"])
    with pytest.raises(ZeroDivisionError), average.in_place():
        assert all(torch.equal(values[name], mean) for name, mean in means.items())
        raise ZeroDivisionError
    assert all(torch.equal(values[name], weight) for name, weight in weights.items())
    assert all(torch.equal(average.tensors[name], mean) for name, mean in means.items())
