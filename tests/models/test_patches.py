from itertools import product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from koala.models.patches import Patches


def images(n, side, seed=0):
    return torch.randn(n, 3, side, side, generator=torch.Generator().manual_seed(seed))


@given(side=st.integers(1, 4), places=st.integers(1, 4), n=st.integers(1, 3))
def test_nothing_is_lost_and_lengths_stay(side, places, n):
    patches, pixels = Patches(side), images(n, side * places)
    samples = patches.encode(pixels).latents
    assert samples.shape == (n, 3 * side**2, places, places)
    assert torch.equal(patches.decode(samples)[0], pixels)
    assert torch.isclose(samples.norm(), pixels.norm(), rtol=1e-5)


def test_a_sample_holds_the_pixels_of_its_square():
    pixels = images(1, 4)
    samples = Patches(2).encode(pixels).latents
    for colour, down, right, y, x in product(range(3), *[range(2)] * 4):
        assert samples[0, 4 * colour + 2 * down + right, y, x] == pixels[0, colour, 2 * y + down, 2 * x + right]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_its_dtype_is_that_which_it_was_moved_to(dtype):
    patches = Patches(2)
    assert patches.dtype == torch.float32 and not patches.state_dict()
    assert patches.to("meta", dtype).dtype == dtype
    assert patches.to_empty(device="cpu").dtype == dtype
