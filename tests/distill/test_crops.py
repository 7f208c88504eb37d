import captioned
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import v2
from torchvision.transforms.functional import InterpolationMode

from koala.distill.data import images
from koala.distill.data.images import Broken, crop, decode

NOISE = np.random.default_rng(3).integers(0, 256, (40, 60, 3), dtype=np.uint8)

sizes = st.tuples(st.integers(1, 90), st.integers(1, 90))


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos"])
@settings(deadline=None, max_examples=25)
@given(size=sizes, side=st.integers(1, 40))
def test_the_centre_crop_is_torchvisions(interpolation, size, side):
    image = Image.fromarray(np.random.default_rng(size[0]).integers(0, 256, (*size, 3), dtype=np.uint8))
    mode = InterpolationMode(interpolation)
    theirs = v2.Compose([v2.Resize(side, mode), v2.CenterCrop(side)])(image)
    ours = crop(image, side, interpolation=interpolation)
    assert np.array_equal(ours.pixels, np.array(theirs))
    assert ours.original == size


@settings(deadline=None, max_examples=50)
@given(size=sizes, side=st.integers(1, 40), seed=st.integers(0, 2**63 - 1), flip=st.booleans())
def test_any_crop_is_square_and_inside_and_its_corner_says_where(size, side, seed, flip):
    image = Image.fromarray(np.random.default_rng(size[0]).integers(0, 256, (*size, 3), dtype=np.uint8))
    cut = crop(image, side, torch.Generator().manual_seed(seed), flip)
    resized = v2.Resize(side, InterpolationMode.BILINEAR)(image)
    whole = np.array(resized)[:, ::-1] if flip else np.array(resized)
    top, left = cut.corner
    assert 0 <= top <= resized.height - side and 0 <= left <= resized.width - side
    assert cut.pixels.shape == (side, side, 3) and cut.pixels.dtype == np.uint8
    assert np.array_equal(cut.pixels, whole[top : top + side, left : left + side])
    assert cut.sizes == (*size, top, left, side, side)


def test_the_steps_are_those_of_diffusers_sdxl_script():
    """Resize, flip, crop, as the script's transforms with the same draws; the corner is that of the flipped image."""
    image = Image.fromarray(np.random.default_rng(8).integers(0, 256, (70, 50, 3), dtype=np.uint8))
    for seed in range(10):
        cut = crop(image, 32, torch.Generator().manual_seed(seed), flip=seed % 2 == 1)
        draw = torch.Generator().manual_seed(seed)
        resized = v2.Resize(32, InterpolationMode.BILINEAR)(image)
        if seed % 2 == 1:
            resized = v2.functional.horizontal_flip(resized)
        y = int(torch.randint(0, resized.height - 32 + 1, (), generator=draw))
        x = int(torch.randint(0, resized.width - 32 + 1, (), generator=draw))
        assert np.array_equal(cut.pixels, np.array(v2.functional.crop(resized, y, x, 32, 32)))
        assert cut.sizes == (70, 50, y, x, 32, 32)


def test_random_crops_take_every_place_alike():
    image, draw = Image.fromarray(NOISE), torch.Generator().manual_seed(0)  # 40 x 60
    lefts = np.bincount([crop(image, 40, draw).corner[1] for _ in range(600)], minlength=21)
    assert len(lefts) == 21 and lefts.min() > 8 and lefts.max() < 60  # 600 / 21 is 29


def test_an_image_so_narrow_that_resizing_would_fill_the_memory_is_broken(monkeypatch):
    monkeypatch.setattr(images, "MAX_PIXELS", 10_000)
    with pytest.raises(Broken, match="too narrow"):
        crop(Image.new("RGB", (200, 1)), 16)


def test_a_small_image_is_enlarged():
    assert crop(Image.fromarray(NOISE), 128).pixels.shape == (128, 128, 3)


def test_a_crop_of_an_upright_photograph_has_its_upright_size():
    exif = Image.Exif()
    exif[0x0112] = 6
    assert crop(decode(captioned.encoded(Image.fromarray(NOISE), exif=exif)), 16).original == (60, 40)
