from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from koala.sampling.contact_sheet import Tile, arranged, contact_sheet, write_contact_sheet
from koala.sampling.gallery import Gallery

PAPER = (250, 250, 248)


def write(folder, pictures, colour=(200, 0, 0)):
    with Gallery(folder) as gallery:
        for prompt, seed in pictures:
            gallery.write(np.full((16, 16, 3), colour, np.uint8), {"prompt": prompt, "seed": seed, "model": "tiny"})
    return gallery


def size(path):
    with Image.open(path) as sheet:
        return sheet.size


def tiles(*counts):
    return [Tile(Path("any.png"), f"prompt {i}", f"{n}") for i, count in enumerate(counts) for n in range(count)]


def lengths(rows):
    return [len(row) for row in rows]


@pytest.mark.filterwarnings("error")
def test_a_sheet_shows_its_images_over_their_captions_on_light_paper(tmp_path):
    gallery = write(tmp_path, [("a red square", 1), ("a red square", 2)])
    path = write_contact_sheet(gallery)
    with Image.open(path) as sheet:
        pixels = np.asarray(sheet)
    assert path.name == "contact_sheet.png"
    assert (pixels == (200, 0, 0)).all(axis=2).sum() == 2 * 256 * 256
    np.testing.assert_array_equal(pixels[0, 0], PAPER)
    assert (pixels[-80:-40] < 100).any(), "there is dark text below the images"


def test_images_of_one_prompt_share_a_row():
    assert lengths(arranged(tiles(4, 4, 4))) == [4, 4, 4]
    assert lengths(arranged(tiles(2, 2, 2, 2))) == [4, 4]
    assert lengths(arranged(tiles(5, 4, 4))) == [5, 4, 4]


def test_a_sheet_is_near_a_square():
    assert lengths(arranged(tiles(1))) == [1]
    assert lengths(arranged(tiles(4))) == [4]
    assert lengths(arranged(tiles(8))) == [4, 4]
    assert lengths(arranged(tiles(*[1] * 9))) == [3, 3, 3]
    assert lengths(arranged(tiles(*[1] * 10))) == [5, 5]
    assert lengths(arranged(tiles(*[1] * 100))) == [10] * 10
    assert lengths(arranged(tiles(16))) == [4] * 4
    assert lengths(arranged(tiles(10, *[1] * 40)))[0] < 10, "one prompt with many images does not widen the sheet"


@pytest.mark.parametrize(
    "text", ["", "x" * 3000, "一只猫 🐱", "عربى", "\ud800", "a\n\n\tb\x00\x1b[0m", "‘’“”–— é", "…"]
)
def test_any_text_can_be_a_caption_or_a_title(tmp_path, text):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    sheet = contact_sheet([[Tile(tmp_path / "a.png", text, text)]], text)
    assert sheet.width == 256 + 2 * 40


def test_a_long_prompt_is_wrapped_and_cut(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")

    def height(prompt):
        return contact_sheet([[Tile(tmp_path / "a.png", prompt, "")]]).height

    assert height("a cat") < height("a cat " * 10) < height("a cat " * 20) == height("a cat " * 200)


def test_the_sheet_follows_the_manifest_and_shows_images_of_earlier_runs(tmp_path):
    one = size(write_contact_sheet(write(tmp_path, [("a", 1)])))
    two = size(write_contact_sheet(write(tmp_path, [("a", 2)])))
    assert two[0] > one[0]


def test_many_images_make_a_jpeg_and_leave_no_older_sheet(tmp_path):
    write_contact_sheet(write(tmp_path, [("a", seed) for seed in range(4)]))
    path = write_contact_sheet(write(tmp_path, [("a", seed) for seed in range(4, 30)]))
    assert path.name == "contact_sheet.jpg"
    assert not (tmp_path / "contact_sheet.png").exists()


def test_a_sheet_stops_at_its_limit(tmp_path):
    gallery = write(tmp_path, [("a", seed) for seed in range(9)])
    assert size(write_contact_sheet(gallery, limit=4))[1] < size(write_contact_sheet(gallery))[1]


def test_an_image_that_cannot_be_read_leaves_its_place_empty(tmp_path):
    gallery = write(tmp_path, [("a", 1), ("b", 1)])
    gallery.images()[0].write_bytes(b"\x89PNG\r\n\x1a\n half")
    with Image.open(write_contact_sheet(gallery)) as sheet:
        assert (np.asarray(sheet) == (200, 0, 0)).all(axis=2).sum() == 256 * 256


def test_an_empty_gallery_has_no_sheet(tmp_path):
    with Gallery(tmp_path) as gallery:
        assert write_contact_sheet(gallery) is None
