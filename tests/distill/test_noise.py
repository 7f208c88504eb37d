import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from koala.distill.noise import draw, generator

SHAPE = (4, 8, 8)
positions_ = st.lists(st.integers(0, 10**9), min_size=1, max_size=6)


@settings(max_examples=30, deadline=None)
@given(positions_, st.integers(0, 2**40), st.sampled_from([0.0, 0.1]))
def test_a_row_is_the_same_in_every_batch(positions, seed, offset):
    whole = draw(positions, seed, SHAPE, 1000, offset)
    for i, position in enumerate(positions):
        alone = draw([position], seed, SHAPE, 1000, offset)
        assert torch.equal(alone.noise[0], whole.noise[i]) and alone.timesteps[0] == whole.timesteps[i]


def test_accumulation_and_ranks_split_a_batch_without_changing_it():
    whole = draw(range(8), 5, SHAPE, 1000)
    by_rank = [draw(range(rank, 8, 2), 5, SHAPE, 1000) for rank in range(2)]
    assert torch.equal(torch.stack([by_rank[i % 2].noise[i // 2] for i in range(8)]), whole.noise)
    in_turn = [draw(range(start, start + 4), 5, SHAPE, 1000) for start in (0, 4)]
    assert torch.equal(torch.cat([part.timesteps for part in in_turn]), whole.timesteps)


def test_torchs_own_generator_neither_matters_nor_moves():
    torch.manual_seed(0)
    first, state = draw([3], 1, SHAPE, 1000, 0.1), torch.get_rng_state()
    torch.manual_seed(7)
    assert torch.equal(draw([3], 1, SHAPE, 1000, 0.1).noise, first.noise)
    torch.manual_seed(0)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("other", [(0, 0, "timestep"), (0, 1, "noise"), (1, 0, "noise"), (0, 10, "noise")], ids=str)
def test_every_seed_position_and_stream_has_numbers_of_its_own(other):
    a, b = (torch.randn(10_000, generator=generator(*triple)) for triple in ((0, 0, "noise"), other))
    assert abs(torch.corrcoef(torch.stack([a, b]))[0, 1]) < 0.05


def test_the_parts_of_a_triple_do_not_run_together():
    seeds = {generator(*triple).initial_seed() for triple in ((1, 11, "a"), (11, 1, "a"), (1, 1, "1 a"), (1, 1, "a"))}
    assert len(seeds) == 4


def test_noise_is_standard_normal_and_timesteps_are_uniform_over_the_whole_schedule():
    drawn = draw(range(20_000), 0, (1, 1, 2), 1000)
    assert abs(drawn.noise.mean()) < 0.02 and abs(drawn.noise.std() - 1) < 0.02
    assert (drawn.timesteps.min(), drawn.timesteps.max()) == (0, 999)
    tenths = torch.bincount(drawn.timesteps // 100, minlength=10)
    chi_square = ((tenths - 2000) ** 2 / 2000).sum()
    assert chi_square < 27.9  # 9 degrees of freedom, p = 0.001


def test_noise_offset_moves_each_channel_of_each_image_by_one_number():
    plain, moved = draw(range(2000), 0, (3, 4, 4), 1000), draw(range(2000), 0, (3, 4, 4), 1000, 0.1)
    difference = moved.noise - plain.noise
    assert difference.std(dim=(2, 3)).max() < 1e-5
    constants = difference.mean(dim=(2, 3))
    assert abs(constants.std() - 0.1) < 0.005 and abs(torch.corrcoef(constants.T)[0, 1]) < 0.1
    assert torch.equal(moved.timesteps, plain.timesteps)


def test_noise_is_fp32_on_the_cpu():
    drawn = draw([0, 1], 0, SHAPE, 1000)
    assert drawn.noise.shape == (2, *SHAPE) and drawn.noise.dtype == torch.float32
    assert drawn.noise.device.type == drawn.timesteps.device.type == "cpu" and drawn.timesteps.dtype == torch.int64
