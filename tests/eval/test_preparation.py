"""Each resize against the tool that it stands for, on images from one pixel up."""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from open_clip.transform import image_transform
from PIL import Image
from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x
from torchvision.transforms import functional as torchvision

from eval.feed import Preparation, Step
from eval.preparation import (
    AntialiasedBilinear,
    Bicubic,
    Bilinear,
    CenterCrop,
    CenterSquare,
    Normalise,
    PilResize,
    TensorFlowBilinear,
    resize_like_pil,
)
from koala.errors import KoalaError

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
STEPS = [
    Bicubic(8),
    TensorFlowBilinear(8),
    Bilinear(8),
    AntialiasedBilinear(8),
    PilResize(8, "lanczos"),
    PilResize(8, "bicubic", shortest=True),
    CenterCrop(5),
    CenterCrop(9, or_whole=True),
    CenterSquare(),
    CenterSquare(rounded_down=True),
    Normalise((128.0,) * 3, (128.0,) * 3),
]
NEAR = 0.01  # of 255: torch places the kernel in float32; on noise, the worst there is, that was 0.005
sides = st.integers(1, 70)
several_sizes = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def noise(height, width, seed=0, n=1):
    """Random images, the hardest there are for a resize."""
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (n, 3, height, width), dtype=np.uint8))


def pil_of(images):
    return [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images]


def through_pil(images, size, kernel):
    resized = [np.array(image.resize(size[::-1], Image.Resampling[kernel.upper()])) for image in pil_of(images)]
    return torch.from_numpy(np.stack(resized)).permute(0, 3, 1, 2)


def off(a, b):
    """The largest difference, on a scale of 0 to 255."""
    assert a.shape == b.shape
    return (a.double() - b.double()).abs().max().item()


@several_sizes
@given(sides, sides, sides)
@example(512, 384, 299)
@example(1, 1, 299)
def test_bicubic_is_what_clean_fid_takes_from_pil(height, width, side):
    images = noise(height, width)
    channels = [Image.fromarray(plane.astype(np.float32)) for plane in images[0].numpy()]
    wanted = np.stack([np.asarray(plane.resize((side, side), Image.Resampling.BICUBIC)) for plane in channels])
    assert off(Bicubic(side)(images), torch.from_numpy(wanted.clip(0, 255))[None]) <= NEAR


def test_bicubic_equals_clean_fids_own_resizer():
    resize = pytest.importorskip("cleanfid.resize").build_resizer("clean")
    for height, width in [(512, 512), (256, 400), (1, 30), (299, 299)]:
        images = noise(height, width)
        wanted = torch.from_numpy(resize(images[0].permute(1, 2, 0).numpy())).permute(2, 0, 1)[None]
        assert off(Bicubic(299)(images), wanted) <= NEAR


@several_sizes
@given(sides, sides, sides)
@example(512, 384, 299)
@example(1, 1, 299)
def test_tensorflow_bilinear_is_torch_fidelitys_bit_by_bit(height, width, side):
    images = noise(height, width, n=2)
    wanted = interpolate_bilinear_2d_like_tensorflow1x(images.float(), size=(side, side), align_corners=False)
    assert torch.equal(TensorFlowBilinear(side)(images), wanted)


@several_sizes
@given(sides, sides, sides)
def test_antialiased_bilinear_is_pils_on_floats(height, width, side):
    images = noise(height, width)
    channels = [Image.fromarray(plane.astype(np.float32)) for plane in images[0].numpy()]
    wanted = np.stack([np.asarray(plane.resize((side, side), Image.Resampling.BILINEAR)) for plane in channels])
    assert off(AntialiasedBilinear(side)(images), torch.from_numpy(wanted)[None]) <= NEAR


def test_bilinear_without_antialias_skips_pixels_and_the_antialiased_does_not():
    images = torch.zeros(1, 3, 16, 16, dtype=torch.uint8)
    images[:, :, ::4, ::4] = 255
    assert Bilinear(4)(images).max() == 0  # it reads rows 1 and 2 of each four
    assert AntialiasedBilinear(4)(images).min() > 5
    assert off(TensorFlowBilinear(4)(images), torch.full((1, 3, 4, 4), 255)) == 0  # it reads row 0 of each four


@several_sizes
@given(sides, sides, sides, st.sampled_from(["bilinear", "bicubic", "lanczos", "box"]), st.booleans())
@example(2, 2, 1, "bilinear", False)
@example(26, 26, 25, "bilinear", False)
@example(300, 200, 224, "bicubic", False)
@example(2000, 30, 20, "bicubic", True)
@example(512, 512, 224, "bicubic", True)
@example(1024, 1024, 512, "lanczos", False)
def test_pil_resize_is_within_one_of_pil(height, width, side, kernel, shortest):
    images, step = noise(height, width, n=2), PilResize(side, kernel, shortest)
    resized = step(images)
    assert resized.dtype == torch.uint8
    assert off(resized, through_pil(images, step.size(height, width), kernel)) <= 1


@settings(max_examples=150, deadline=None)
@given(st.integers(2, 35), st.floats(2, 6), st.sampled_from(["bilinear", "bicubic"]), st.integers(0, 10))
def test_squares_halved_or_more_which_torch_resizes_are_within_one_of_pil(side, ratio, kernel, seed):
    old = round(side * ratio + 0.5)
    images = noise(old, old, seed)
    assert off(PilResize(side, kernel)(images), through_pil(images, (side, side), kernel)) <= 1


@several_sizes
@given(st.integers(8, 70), st.integers(8, 70), st.integers(2, 8), st.sampled_from(["bilinear", "bicubic", "lanczos"]))
@example(1, 1, 9, "lanczos")
@example(60, 60, 61, "bicubic")
def test_the_resize_of_other_devices_is_within_one_of_pil_on_what_is_smooth(height, width, side, kernel):
    images = through_pil(noise(4, 4), (height, width), "bilinear")  # no pass overshoots: its order does not matter
    assert off(resize_like_pil(images, (side, side), kernel), through_pil(images, (side, side), kernel)) <= 1


@pytest.mark.parametrize("kernel", ["bilinear", "bicubic", "lanczos"])
@pytest.mark.parametrize(("height", "width", "side"), [(512, 512, 224), (512, 512, 299), (64, 64, 99), (256, 256, 64)])
def test_the_resize_of_other_devices_is_within_one_of_pil_on_square_noise(height, width, side, kernel):
    images = noise(height, width)
    assert off(resize_like_pil(images, (side, side), kernel), through_pil(images, (side, side), kernel)) <= 1


@several_sizes
@given(sides, sides)
@example(480, 640)
@example(641, 481)
@example(2, 1)
def test_the_steps_of_clip_are_open_clips_transform(height, width):
    mean, std = (tuple(255 * value for value in values) for values in (CLIP_MEAN, CLIP_STD))
    prepare = Preparation((PilResize(32, "bicubic", shortest=True), CenterCrop(32), Normalise(mean, std)))
    images = noise(height, width, n=2)
    theirs = image_transform(32, is_train=False, mean=CLIP_MEAN, std=CLIP_STD)
    wanted = torch.stack([theirs(image) for image in pil_of(images)])
    scale = 255 * torch.tensor(CLIP_STD).view(3, 1, 1)
    assert off(prepare(images) * scale, wanted * scale) <= 1.001


@given(st.integers(5, 30), st.integers(5, 30), st.integers(1, 5))
def test_crops_are_torchvisions(height, width, side):
    images = noise(height, width)
    assert torch.equal(CenterCrop(side)(images), torchvision.center_crop(images, [side, side]))
    assert torch.equal(CenterSquare()(images), torchvision.center_crop(images, [min(height, width)] * 2))


@given(st.integers(1, 40), st.integers(1, 40))
def test_offsets_rounded_down_are_those_of_cmmds_code(height, width):
    """google-research, cmmd/io_util.py: PIL's crop of a box whose corner is (w - l) // 2, (h - l) // 2."""
    images, short = noise(height, width), min(height, width)
    left, top = (width - short) // 2, (height - short) // 2
    box = np.array(pil_of(images)[0].crop((left, top, left + short, top + short)))
    assert torch.equal(CenterSquare(rounded_down=True)(images)[0], torch.from_numpy(box).permute(2, 0, 1))


def test_an_image_smaller_than_the_crop_may_be_left_whole():
    images = noise(200, 300)
    assert CenterCrop(299, or_whole=True)(images) is images
    assert CenterCrop(200, or_whole=True)(images).shape[2:] == (200, 200)


def test_an_image_smaller_than_the_crop_is_an_error_that_gives_its_size():
    with pytest.raises(KoalaError, match="300x200 pixels is smaller than the 299x299 centre crop"):
        CenterCrop(299)(noise(200, 300))


def test_normalised_values_are_centred_and_scaled():
    images = torch.tensor([0, 128, 255], dtype=torch.uint8).view(1, 1, 1, 3).expand(1, 3, 1, 3)
    normalised = Normalise((128.0,) * 3, (128.0,) * 3)(images)
    assert normalised[0, 2, 0].tolist() == [-1.0, 0.0, 127 / 128]


@pytest.mark.parametrize("step", STEPS, ids=str)
def test_steps_compare_by_value_leave_their_input_alone_and_treat_images_one_by_one(step):
    assert isinstance(step, Step)
    assert step == type(step)(**vars(step)) and len({step, type(step)(**vars(step))}) == 1
    images = noise(11, 7, n=3)
    before = images.clone()
    batch, single = step(images), torch.cat([step(image[None]) for image in images])
    assert torch.equal(images, before)
    assert torch.equal(batch, single)


def test_a_preparation_says_all_its_steps():
    prepare = Preparation(
        (CenterSquare(), PilResize(512, "lanczos"), Bicubic(299), Normalise((128.0,) * 3, (64.0,) * 3))
    )
    assert str(prepare) == (
        "centre square; PIL lanczos to 512x512; float antialiased bicubic to 299x299; (x - 128) / 64"
    )


@pytest.mark.parametrize("side", [9, 20])
@pytest.mark.parametrize("resize", [Bicubic, TensorFlowBilinear, Bilinear, AntialiasedBilinear])
def test_resizes_of_floats_take_uint8_too_and_change_neither(resize, side):
    images = noise(20, 20)
    floats = images.float() + 0.0
    assert torch.equal(resize(side)(images), resize(side)(floats))
    assert torch.equal(floats, images.float())
    if side == 20:
        assert off(resize(side)(images), images) <= (0 if resize is Bicubic else 1e-4)  # as PIL, which copies then


@pytest.mark.parametrize("step", STEPS, ids=str)
def test_images_may_lie_in_memory_as_they_were_decoded(step):
    images = noise(11, 7, n=3)
    decoded = images.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    assert off(step(decoded), step(images)) <= 1e-4
