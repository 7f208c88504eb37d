import os
import struct
import tracemalloc
from pathlib import Path

import captioned
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from koala.distill.data.images import Broken, TooSmall, decode

NOISE = np.random.default_rng(3).integers(0, 256, (40, 60, 3), dtype=np.uint8)
encoded = captioned.encoded


def pixels(data):
    return np.array(decode(data))


def test_a_plain_image_comes_as_its_pixels_from_bytes_and_from_a_path(tmp_path):
    data = encoded(Image.fromarray(NOISE))
    (tmp_path / "a.png").write_bytes(data)
    assert np.array_equal(pixels(data), NOISE) and np.array_equal(pixels(tmp_path / "a.png"), NOISE)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_an_image_is_turned_as_its_exif_data_say(kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"WEBP": {"lossless": True}, "JPEG": {"quality": 100, "subsampling": 0}}.get(kind, {})
    stored = captioned.picture(5, 40, 64)
    data = encoded(stored, kind, exif=exif, **options)
    turns = [None, None, "fliplr", "rot180", "flipud", "transpose", "rot270", "transverse", "rot90"]
    steps = {
        None: lambda x: x,
        "fliplr": lambda x: x[:, ::-1],
        "rot180": lambda x: x[::-1, ::-1],
        "flipud": lambda x: x[::-1],
        "transpose": lambda x: x.swapaxes(0, 1),
        "rot270": lambda x: np.rot90(x, 3),
        "transverse": lambda x: x[::-1, ::-1].swapaxes(0, 1),
        "rot90": np.rot90,
    }
    expected = steps[turns[orientation]](np.array(stored)).astype(int)
    assert pixels(data).shape == expected.shape
    assert np.abs(pixels(data) - expected).max() <= (12 if kind == "JPEG" else 0)


def test_damaged_exif_data_change_nothing():
    data = encoded(Image.fromarray(NOISE), exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + b"\x12\x01" * 40)
    assert np.array_equal(pixels(data), NOISE)


def test_transparency_is_white_in_every_mode():
    alpha = np.zeros((40, 60), np.uint8)
    alpha[:, 30:] = 255
    rgba = Image.fromarray(np.dstack([NOISE, alpha]))
    expected = np.where(alpha[..., None] > 0, NOISE, 255)
    assert np.array_equal(pixels(encoded(rgba)), expected)
    grey = Image.fromarray(np.dstack([NOISE[..., 0], alpha]), "LA")
    assert np.array_equal(pixels(encoded(grey))[..., 1], np.where(alpha > 0, NOISE[..., 0], 255))
    palette = Image.fromarray((NOISE[..., 0] // 64), "P")
    palette.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255, 9, 9, 9])
    shown = pixels(encoded(palette, transparency=0))
    assert (shown[NOISE[..., 0] < 64] == 255).all() and (shown[NOISE[..., 0] // 64 == 1] == (0, 255, 0)).all()


def test_half_transparency_is_mixed_with_white():
    half = Image.new("RGBA", (8, 8), (0, 0, 0, 128))
    assert abs(int(pixels(encoded(half))[0, 0, 0]) - 127) <= 1


def test_deep_grey_keeps_its_high_byte():
    deep = np.random.default_rng(1).integers(0, 65536, (6, 9), dtype=np.uint16)
    shown = pixels(encoded(Image.fromarray(deep)))
    assert shown.dtype == np.uint8
    assert np.array_equal(shown, np.repeat((deep >> 8)[..., None], 3, axis=2))


def test_the_clear_value_of_deep_grey_is_white():
    deep = np.array([[0x1234, 0x1235]], np.uint16)
    shown = pixels(encoded(Image.fromarray(deep), transparency=0x1234))
    assert shown[0, :, 0].tolist() == [255, 0x12]


@pytest.mark.parametrize(
    ("image", "kind"),
    [
        (Image.new("L", (9, 6), 100), "PNG"),
        (Image.new("1", (9, 6), 1), "PNG"),
        (Image.new("P", (9, 6), 3), "GIF"),
        (Image.new("CMYK", (9, 6), (0, 255, 255, 0)), "JPEG"),
        (Image.new("CMYK", (9, 6), (0, 255, 255, 0)), "TIFF"),
        (Image.new("RGB", (9, 6), (255, 0, 0)), "BMP"),
    ],
)
def test_every_mode_becomes_rgb(image, kind):
    decoded = decode(encoded(image, kind))
    assert decoded.mode == "RGB" and decoded.size == (9, 6)
    if image.mode == "CMYK":
        assert np.abs(np.array(decoded).astype(int)[0, 0] - (255, 0, 0)).max() < 10


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_an_animation_is_its_first_frame(kind):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert (pixels(data) == (255, 0, 0)).all()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP"])
@settings(max_examples=25, deadline=None)
@given(share=st.floats(0, 0.95))
def test_a_truncated_image_is_broken_wherever_it_ends(kind, share):
    data = encoded(Image.fromarray(NOISE), kind)
    with pytest.raises(Broken):
        decode(data[: int(len(data) * share)])


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_bytes_that_are_no_image_are_broken(data):
    with pytest.raises(Broken):
        decode(data)


@settings(deadline=None)
@given(
    st.sampled_from(["PNG", "JPEG", "WEBP", "TIFF", "GIF"]), st.integers(0, 2**16), st.binary(min_size=1, max_size=8)
)
def test_a_damaged_image_decodes_or_is_broken_and_nothing_else(kind, place, damage):
    data = bytearray(encoded(captioned.picture(2, 24, 24), kind))
    place %= len(data)
    data[place : place + len(damage)] = damage
    try:
        assert decode(bytes(data)).mode == "RGB"
    except Broken as error:
        assert "\n" not in str(error)


def test_files_that_give_no_bytes_say_why(tmp_path):
    (tmp_path / "empty.png").touch()
    (tmp_path / "loop.png").symlink_to("loop.png")
    os.mkfifo(tmp_path / "pipe.png")
    for name, reason in [
        ("empty.png", "empty"),
        ("missing.png", "No such file"),
        ("", "not a regular file"),
        ("pipe.png", "not a regular file"),
        ("loop.png", "symbolic links"),
        ("x" * 300, "too long"),
        ("half \ud800.png", "surrogates not allowed"),
    ]:
        with pytest.raises(Broken, match=reason):
            decode(tmp_path / name)


def bomb(width, height):
    """The header of a PNG of that size, a few bytes long."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + b"\0" * 4


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("size", [(20_000, 20_000), (100_000, 2_000)])
def test_a_decompression_bomb_is_refused_before_it_goes_off(size):
    tracemalloc.start()
    try:
        with pytest.raises(Broken):
            decode(bomb(*size))
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_pixels_without_a_known_range_are_refused():
    with pytest.raises(Broken, match="range"):
        decode(encoded(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF"))
    with pytest.raises(Broken, match="range"):
        decode(encoded(Image.fromarray(np.ones((4, 4), np.int32)), "TIFF"))


def test_the_least_side_is_asked_of_the_image_as_it_is_stored():
    data = encoded(Image.fromarray(NOISE))
    assert decode(data, 40).size == (60, 40)
    with pytest.raises(TooSmall, match="60 x 40"):
        decode(data, 41)


def test_decoding_closes_its_file(tmp_path):
    Image.fromarray(NOISE).save(tmp_path / "a.png")
    before = len(list(Path("/proc/self/fd").iterdir()))
    kept = [decode(tmp_path / "a.png") for _ in range(3)]
    assert len(list(Path("/proc/self/fd").iterdir())) == before and kept[0].getpixel((0, 0)) == tuple(NOISE[0, 0])
