import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
from bad_images import (
    DEEP,
    PIXELS,
    empty,
    encoded,
    good,
    grey16_with_clear_colour,
    huge,
    rgb16,
    rotated,
    save,
    text,
    truncated,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from eval.images import EXTENSIONS, FORMATS, Picture, Unreadable, decode
from koala.errors import KoalaError

GREY, RED = PIXELS[:, :, 0], Image.fromarray(PIXELS)


def pixels(path: Path, *notes: str) -> np.ndarray:
    picture = decode(path)
    assert isinstance(picture, Picture), picture
    assert picture.notes == notes and picture.pixels.flags.writeable
    return picture.pixels


def reason(path: Path) -> str:
    bad = decode(path)
    assert isinstance(bad, Unreadable) and bad.path == path and "\n" not in bad.reason
    return bad.reason


# ---- what is read


@pytest.mark.parametrize("kind", ("png", "bmp", "ppm", "tiff", "webp"))
def test_lossless_files_give_their_pixels_and_the_digest_of_their_bytes(tmp_path, kind):
    path = save(tmp_path / f"a.{kind}", RED, **({"lossless": True} if kind == "webp" else {}))
    np.testing.assert_array_equal(pixels(path), PIXELS)
    assert decode(path).sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    "kind, mode",
    [(kind, mode) for kind in ("png", "gif", "tiff") for mode in ("1", "L", "P", "RGB")]
    + [("jpeg", "L"), ("jpeg", "RGB"), ("jpeg", "CMYK"), ("tiff", "CMYK")],
)
def test_opaque_pictures_are_what_the_fid_tools_read(tmp_path, kind, mode):
    path = save(tmp_path / f"a.{kind}", RED.convert(mode))
    notes = ("CMYK converted to RGB",) if mode == "CMYK" else ()
    with Image.open(path) as image:  # pytorch-fid, clean-fid and torch-fidelity: Image.open(path).convert("RGB")
        np.testing.assert_array_equal(pixels(path, *notes), np.asarray(image.convert("RGB")))


def test_a_tiff_in_ycbcr_becomes_rgb(tmp_path):
    path = save(tmp_path / "a.tif", Image.new("RGB", (9, 6), (200, 120, 40)).convert("YCbCr"))
    with Image.open(path) as image:
        assert image.mode == "YCbCr"
    assert np.abs(pixels(path).astype(int) - (200, 120, 40)).max() <= 2


def test_grey_is_three_equal_channels(tmp_path):
    found = pixels(save(tmp_path / "a.png", Image.fromarray(GREY)))
    np.testing.assert_array_equal(found, np.stack([GREY] * 3, axis=2))


@pytest.mark.parametrize("kind", ("png", "tiff", "pgm"))
def test_16_bit_grey_keeps_its_high_byte(tmp_path, kind):
    path = save(tmp_path / f"a.{kind}", Image.fromarray(DEEP))
    expected = np.stack([DEEP >> 8] * 3, axis=2)
    np.testing.assert_array_equal(pixels(path, "16 bits per channel cut to 8"), expected)


def test_16_bit_colour_keeps_its_high_byte_as_16_bit_grey_does(tmp_path):
    found = pixels(rgb16(tmp_path), "16 bits per channel cut to 8")
    np.testing.assert_array_equal(found[:, :, 0], DEEP >> 8)
    np.testing.assert_array_equal(found[:, :, 2], DEEP[:, ::-1] >> 8)


def test_the_clear_colour_of_16_bit_grey_is_white(tmp_path):
    found = pixels(grey16_with_clear_colour(tmp_path), "16 bits per channel cut to 8")
    clear = DEEP[0, 0] == DEEP
    assert (found[clear] == 255).all()
    np.testing.assert_array_equal(found[~clear][:, 1], DEEP[~clear] >> 8)


@given(alpha=st.integers(0, 255), level=st.integers(0, 255))
def test_transparency_is_composited_on_white(tmp_path_factory, alpha, level):
    path = tmp_path_factory.getbasetemp() / "alpha.png"
    Image.new("RGBA", (2, 2), (level, 0, 255, alpha)).save(path)
    found = pixels(path, *(() if alpha == 255 else ("transparency composited on white",)))
    expected = np.array((level, 0, 255)) * (alpha / 255) + 255 * (1 - alpha / 255)
    assert np.abs(found - expected).max() <= 1


@pytest.mark.parametrize("mode", ("L", "RGB"))
def test_a_clear_colour_is_white(tmp_path, mode):
    image = Image.new(mode, (2, 1), "black")
    image.putpixel((1, 0), 7 if mode == "L" else (7, 7, 7))
    path = save(tmp_path / "a.png", image, transparency=0 if mode == "L" else (0, 0, 0))
    assert pixels(path, "transparency composited on white")[0, :, 0].tolist() == [255, 7]


def test_clear_entries_of_a_palette_are_white(tmp_path):
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((1, 0), 1)
    path = save(tmp_path / "a.png", image, transparency=b"\x00\xff")
    assert pixels(path, "transparency composited on white").tolist() == [[[255, 255, 255], [40, 50, 60]]]


@pytest.mark.parametrize("kind", ("gif", "png", "webp", "tiff"))
def test_of_several_frames_the_first_is_read_and_that_is_said(tmp_path, kind):
    frames = [Image.new("RGB", (9, 6), colour) for colour in ("red", "lime", "blue")]
    lossless = {"lossless": True} if kind == "webp" else {}
    path = save(tmp_path / f"a.{kind}", frames[0], save_all=True, append_images=frames[1:], **lossless)
    assert (pixels(path, "first of several frames") == (255, 0, 0)).all()


def test_orientation_and_profile_are_ignored_as_the_fid_tools_do_and_that_is_said(tmp_path):
    np.testing.assert_array_equal(pixels(rotated(tmp_path), "EXIF orientation ignored"), PIXELS)
    path = save(tmp_path / "profile.png", RED, icc_profile=b"no profile at all")
    np.testing.assert_array_equal(pixels(path, "colour profile ignored"), PIXELS)


def test_an_image_of_one_pixel_is_an_image(tmp_path):
    assert pixels(good(tmp_path, size=(1, 1))).shape == (1, 1, 3)


def test_the_name_does_not_decide_the_format(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(encoded(RED, "BMP"))
    np.testing.assert_array_equal(pixels(path), PIXELS)


def test_every_extension_belongs_to_a_format_that_is_read():
    Image.init()
    assert {Image.EXTENSION[extension] for extension in EXTENSIONS} == set(FORMATS)


# ---- what is not


@pytest.mark.parametrize("kind", ("png", "jpeg", "gif", "bmp", "ppm", "tiff", "webp"))
def test_truncated_files_are_unreadable(tmp_path, kind):
    assert "damaged" in reason(truncated(tmp_path, kind))


def test_files_that_are_no_image_say_so(tmp_path):
    assert reason(empty(tmp_path)) == "the file is empty"
    assert "no image of a kind that is read (BMP, GIF" in reason(text(tmp_path))
    assert reason(tmp_path) == "a folder, not a file"
    assert reason(tmp_path / "nothing.png") == "No such file or directory"
    os.mkfifo(tmp_path / "pipe.png")
    assert reason(tmp_path / "pipe.png") == "not a regular file"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_files_without_permission_say_so(tmp_path):
    path = good(tmp_path)
    path.chmod(0)
    assert reason(path) == "Permission denied"


def test_formats_outside_the_list_are_not_read(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(encoded(RED, "TGA") + b"TRUEVISION-XFILE.\0")
    assert "no image of a kind" in reason(path)


@pytest.mark.parametrize("dtype", (np.float32, np.int32))
def test_pixels_of_unknown_range_are_unreadable(tmp_path, dtype):
    path = save(tmp_path / "a.tif", Image.fromarray(DEEP.astype(dtype)))
    assert "range the file does not say" in reason(path)


def test_huge_images_are_refused_before_they_take_memory(tmp_path, monkeypatch):
    assert reason(huge(tmp_path)) == (
        "60000 x 60000 is more than 178956970 pixels; set KOALA_MAX_PIXELS=3600000000 to read it"
    )
    before = Image.MAX_IMAGE_PIXELS
    monkeypatch.setenv("KOALA_MAX_PIXELS", "53")
    assert "9 x 6 is more than 53 pixels" in reason(good(tmp_path))
    monkeypatch.setenv("KOALA_MAX_PIXELS", "54")
    pixels(good(tmp_path))
    assert before == Image.MAX_IMAGE_PIXELS
    monkeypatch.setenv("KOALA_MAX_PIXELS", "a lot")
    with pytest.raises(KoalaError, match="'a lot', which is no number of pixels"):
        decode(tmp_path / "good.png")


FUZZED = {kind: encoded(RED, kind) for kind in FORMATS} | {
    "APNG": encoded(RED, "PNG", save_all=True, append_images=[Image.new("RGB", RED.size)]),
    "palette": encoded(RED.convert("P"), "PNG", transparency=3),
    "alpha": encoded(RED.convert("RGBA"), "WEBP"),
    "CMYK": encoded(RED.convert("CMYK"), "JPEG"),
    "EXIF": encoded(RED, "JPEG", exif=Image.Exif().tobytes(), icc_profile=b"x" * 40),
    "packed": encoded(RED, "TIFF", compression="tiff_lzw"),
    "animation": encoded(RED, "GIF", save_all=True, append_images=[Image.new("RGB", RED.size)]),
}


@settings(max_examples=400, deadline=None)
@given(kind=st.sampled_from(sorted(FUZZED)), data=st.data())
def test_any_damage_gives_a_picture_or_a_reason_and_no_error(tmp_path_factory, kind, data):
    damaged = bytearray(FUZZED[kind])
    for _ in range(data.draw(st.integers(1, 6))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "damaged"
    path.write_bytes(damaged[: data.draw(st.integers(1, len(damaged)))])
    result = decode(path, limit=100_000)
    assert isinstance(result, Unreadable) or result.pixels.dtype == np.uint8
