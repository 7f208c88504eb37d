"""Images that other tools made for a suite: matched with its prompts however those tools name them."""

import shutil

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from eval.generation.elsewhere import take
from eval.sources import read_sets
from eval.suite import Prompt, Suite
from koala.errors import KoalaError
from koala.sampling.gallery import Gallery

PROMPTS = (
    Prompt("a red cat", {"style": "anime"}, {"include": [{"class": "cat", "count": 1}]}, id="anime/00000"),
    Prompt("a blue cup", {"style": "anime"}, id="anime/00001"),
    Prompt("two dogs_2", {"style": "photo"}, id="COCO_val2014_000000000042"),
)
SUITE = Suite("toy", "Toy", None, None, PROMPTS)
QUIET = Console(quiet=True)


@pytest.fixture
def images(tmp_path):
    """Write images of these names, each of one grey; the folder."""

    def write(*names, size=(8, 6)):
        for grey, name in enumerate(names):
            path = tmp_path / "made" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((*size, 3), 10 * grey, np.uint8)).save(path)
        return tmp_path / "made"

    return write


def greys(folder):
    """The grey of each image by prompt and seed."""
    found = {}
    for row in Gallery(folder).rows():
        with Image.open(folder / row["file"]) as image:
            found[row["prompt"], row["seed"]] = image.getpixel((0, 0))[0]
    return found


WHOLE = {("a red cat", 0): 0, ("a blue cup", 0): 10, ("two dogs_2", 0): 20}
TWO = {("a red cat", 0): 0, ("a red cat", 1): 10, ("a blue cup", 0): 20, ("two dogs_2", 3): 30}


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (("00000.png", "00001.png", "00002.png"), WHOLE),
        (("0.png", "1.png", "2.png"), WHOLE),
        (("00000/samples/0000.png", "00000/samples/0001.png", "00001/samples/0000.png", "00002/samples/0003.png"), TWO),
        (("00000_0.png", "00000_1.png", "00001-0.png", "2_3.png"), TWO),
        (("anime/00000.png", "anime/00001.png", "COCO_val2014_000000000042.png"), WHOLE),
        (("a red cat_000000.png", "a red cat_000001.png", "a blue cup_000000.png", "two dogs_2_000003.png"), TWO),
        (("a red cat.png", "a blue cup.png", "two dogs_2.png"), WHOLE),
    ],
)
def test_names_of_the_suites_own_tools_are_understood(images, tmp_path, names, found):
    assert greys(take(images(*names), SUITE, tmp_path / "out" / "theirs", QUIET)) == found


def test_a_table_says_which_image_is_of_which_prompt(images, tmp_path):
    folder = images("x.png", "y.png", "z.png")
    (folder / "metadata.csv").write_text(
        "file_name,text,seed\nx.png,a blue cup,7\ny.png,a red cat,\nz.png,a red cat,\n"
    )
    taken = take(folder, SUITE, tmp_path / "out" / "theirs", QUIET)
    assert greys(taken) == {("a blue cup", 7): 0, ("a red cat", 0): 10, ("a red cat", 1): 20}


def test_a_taken_image_knows_its_prompt_tags_expectations_and_source(images, tmp_path):
    folder = take(images("0.png", "1.png", "2.png"), SUITE, tmp_path / "theirs", QUIET)
    row = Gallery(folder).rows()[0]
    assert (row["model"], row["weights"], row["height"], row["width"]) == ("theirs", "elsewhere", 8, 6)
    assert (row["suite"], row["suite_digest"], row["prompt_id"]) == ("toy", SUITE.digest, "anime/00000")
    assert row["source_file"].endswith("made/0.png") and len(row["source_sha256"]) == 64
    (one,) = read_sets(folder)
    assert one.name == "theirs" and one.items[0].expects == PROMPTS[0].expects
    assert one.items[0].tags == {"style": "anime"}


def test_taking_again_takes_what_is_missing_and_what_has_changed(images, tmp_path):
    folder = images("0.png", "1.png")
    out = take(folder, SUITE, tmp_path / "theirs", QUIET)
    first = (out / Gallery(out).rows()[0]["file"]).stat().st_mtime_ns
    images("0.png", "1.png", "2.png")
    Image.new("RGB", (6, 8), (99, 99, 99)).save(folder / "1.png")
    assert greys(take(folder, SUITE, tmp_path / "theirs", QUIET)) == {**WHOLE, ("a blue cup", 0): 99}
    assert (out / "0000-a-red-cat.png").stat().st_mtime_ns == first


def test_images_of_several_sizes_are_taken_without_one(images, tmp_path):
    folder = images("0.png")
    Image.new("RGB", (5, 5)).save(folder / "1.png")
    rows = Gallery(take(folder, SUITE, tmp_path / "theirs", QUIET)).rows()
    assert {(row["height"], row["width"]) for row in rows} == {(None, None)}


def test_an_unreadable_image_is_left_out_and_said(images, tmp_path):
    folder = images("0.png", "1.png")
    (folder / "1.png").write_bytes(b"no image")
    console = Console(record=True, width=300)
    assert len(greys(take(folder, SUITE, tmp_path / "theirs", console))) == 1
    said = console.export_text()
    assert "left out" in said and "1.png" in said
    assert "1 prompts of toy have no image" in said


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("0.png", "cat.png"), "1 of the 2 images .* are of no prompt of toy: cat.png"),
        (("9.png",), "are of no prompt of toy: 9.png"),
        (("0.png", "00000.png"), "are both image 0 of 'a red cat'"),
    ],
)
def test_images_that_cannot_be_matched_are_named(images, tmp_path, names, message):
    with pytest.raises(KoalaError, match=message):
        take(images(*names), SUITE, tmp_path / "theirs", QUIET)


@pytest.mark.parametrize("name", ["..", "a b", "-x"])
def test_a_gallerys_name_is_a_plain_one(images, tmp_path, name):
    with pytest.raises(KoalaError, match="is no name for a gallery"):
        take(images("0.png"), SUITE, tmp_path / "out" / name, QUIET)


def test_a_gallery_of_ours_goes_into_another_suite_by_its_prompts(images, tmp_path):
    first = take(images("0.png", "1.png", "2.png"), SUITE, tmp_path / "first", QUIET)
    shutil.rmtree(tmp_path / "made")
    again = take(first, SUITE, tmp_path / "again", QUIET)
    assert greys(again) == greys(first)
