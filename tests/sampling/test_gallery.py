import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from koala.errors import KoalaError
from koala.sampling.difference import image_difference
from koala.sampling.gallery import MANIFEST, Gallery, file_name, image_key, settings_key
from koala.sampling.png import encode_png, png_text

ODD_PROMPTS = (
    "",
    " ",
    "a\nb",
    'she said "no", twice',
    "一只猫 🐱",
    "../../etc/passwd",
    "con",
    "a/b\\c:d*e?f|g<h>i",
    "x" * 5000,
    "Café déjà vu",
    "-- --",
)


def row(prompt="a cat", seed=7, **changes):
    return {
        "prompt": prompt,
        "negative": None,
        "seed": seed,
        "model": "tiny-koala-700m",
        "weights": "random",
        "recipe": {"steps": 2, "crop": (0, 0)},
        "profile": "eager",
        "height": 4,
        "width": 6,
        "dtype": "fp32",
        "started_at": "2026-01-01T00:00:00+00:00",
        **changes,
    }


def image(seed=0):
    return np.random.default_rng(seed).integers(0, 256, (4, 6, 3), dtype=np.uint8)


def pixels(path):
    with Image.open(path) as picture:
        return np.asarray(picture)


def add_line(folder, **line):
    with open(folder / MANIFEST, "a") as file:
        file.write(json.dumps({"schema": 1, "kind": "image", **line}) + "\n")


# ---- names


def test_a_plain_prompt_is_its_own_file_name():
    assert file_name("a photo of a red apple", 7) == "0007-a-photo-of-a-red-apple.png"


@pytest.mark.parametrize("prompt", ODD_PROMPTS)
def test_every_prompt_gets_a_name_that_any_file_system_takes(prompt):
    name = file_name(prompt, 7)
    assert name.startswith("0007-") and name.endswith(".png") and len(name) < 100
    assert set(name[:-4]) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")


def test_prompts_with_one_slug_have_different_names():
    prompts = ("a cat", "A cat", "a cat.", "a-cat", "a  cat", "a cat " * 200, "a cat " * 201)
    assert len({file_name(prompt, 7) for prompt in prompts}) == len(prompts)


# ---- writing and reading back


@pytest.mark.parametrize("prompt", ODD_PROMPTS)
def test_every_prompt_comes_back_from_the_manifest_and_from_the_png(tmp_path, prompt):
    with Gallery(tmp_path / "g") as gallery:
        path = gallery.write(image(), row(prompt, negative="ugly, «blurry»"))
    assert Gallery(tmp_path / "g").rows()[0]["prompt"] == prompt
    text = png_text(path)
    assert (text["prompt"], text["negative"], text["seed"]) == (prompt, "ugly, «blurry»", "7")
    assert json.loads(text["recipe"]) == {"steps": 2, "crop": [0, 0]}
    assert text["Software"].startswith("koala-bench ")


def test_pixels_come_back_as_they_were(tmp_path):
    with Gallery(tmp_path / "g") as gallery:
        gallery.write(image(3), row())
    (path,) = Gallery(tmp_path / "g").images()
    np.testing.assert_array_equal(pixels(path), image(3))


def test_what_was_not_given_is_not_in_the_png(tmp_path):
    with Gallery(tmp_path / "g") as gallery:
        path = gallery.write(image(), row(negative=None))
    assert "negative" not in png_text(path)


def test_a_second_visit_knows_what_is_finished(tmp_path):
    with Gallery(tmp_path) as gallery:
        gallery.write(image(), row(seed=1))
    finished = Gallery(tmp_path).finished()
    assert image_key(row(seed=1)) in finished
    for other in (row(seed=2), row("a dog", 1), row(seed=1, dtype="fp16"), row(seed=1, recipe={"steps": 3})):
        assert image_key(other) not in finished


def test_a_key_forgets_the_device_and_the_time_but_no_setting():
    assert image_key(row(device="cuda", started_at="later")) == image_key(row(device="cpu"))
    assert settings_key(row("a dog", 1)) == settings_key(row("a cat", 2))
    for field in ("negative", "model", "weights", "weights_hash", "adapters", "recipe", "profile", "height", "dtype"):
        assert settings_key(row(**{field: "other"})) != settings_key(row()), field


def test_every_rank_writes_its_own_manifest_and_all_are_read(tmp_path):
    for rank in (0, 1):
        with Gallery(tmp_path, rank) as gallery:
            gallery.write(image(), row(seed=rank))
    with Gallery(tmp_path) as gallery:
        gallery.write(image(), row(seed=2))
        assert {one["seed"] for one in gallery.rows()} == {0, 1, 2}
    assert len(list(tmp_path.glob("manifest*.jsonl"))) == 3


def test_two_writers_of_one_manifest_are_refused(tmp_path):
    with Gallery(tmp_path), pytest.raises(KoalaError, match="another run is writing"), Gallery(tmp_path):
        pass


def test_an_environment_is_written_once(tmp_path):
    for _ in range(2):
        with Gallery(tmp_path) as gallery:
            gallery.add_environment({"kind": "environment", "id": "abc"})
    assert (tmp_path / MANIFEST).read_text().count("environment") == 1


# ---- what a kill leaves behind


def test_an_image_without_a_row_is_not_finished_and_is_drawn_again(tmp_path):
    with Gallery(tmp_path) as gallery:
        path = gallery.write(image(), row())
    (tmp_path / MANIFEST).write_text("")
    with Gallery(tmp_path) as gallery:
        assert gallery.rows() == []
        assert gallery.write(image(), row()) == path
        assert len(gallery.rows()) == 1


def test_a_row_whose_image_is_gone_is_counted_and_not_finished(tmp_path):
    with Gallery(tmp_path) as gallery:
        gallery.write(image(), row(seed=1))
        gallery.write(image(), row(seed=2)).unlink()
    listing = Gallery(tmp_path).read()
    assert [one["seed"] for one in listing.rows] == [1]
    assert listing.missing == [file_name("a cat", 2)]


def test_a_deleted_image_may_come_back_with_other_settings_and_the_newest_row_counts(tmp_path):
    with Gallery(tmp_path) as gallery:
        gallery.write(image(), row()).unlink()
    with Gallery(tmp_path) as gallery:
        gallery.write(image(), row(dtype="fp16"))
    assert [one["dtype"] for one in Gallery(tmp_path).rows()] == ["fp16"]


def test_a_torn_last_line_costs_its_own_image_alone(tmp_path):
    with Gallery(tmp_path) as gallery:
        for seed in (1, 2):
            gallery.write(image(), row(seed=seed))
    manifest = tmp_path / MANIFEST
    manifest.write_bytes(manifest.read_bytes()[:-20])
    with Gallery(tmp_path) as gallery:
        assert [one["seed"] for one in gallery.rows()] == [1]
        gallery.write(image(), row(seed=2))
    listing = Gallery(tmp_path).read()
    assert [one["seed"] for one in listing.rows] == [1, 2]
    assert len(listing.problems) == 1


def test_a_half_written_png_is_no_image_and_is_replaced(tmp_path):
    name = file_name("a cat", 7)
    with Gallery(tmp_path) as gallery:
        (tmp_path / f".{name}.part").write_bytes(b"\x89PNG half")
        assert gallery.images() == []
        gallery.write(image(), row())
    assert {path.name for path in tmp_path.iterdir()} == {MANIFEST, name}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_one_clear_error_and_leaves_no_image(tmp_path):
    with Gallery(tmp_path) as gallery:
        (tmp_path / f".{file_name('a cat', 7)}.part").symlink_to("/dev/full")
        with pytest.raises(KoalaError, match="No space left"):
            gallery.write(image(), row())
        assert {path.name for path in tmp_path.iterdir()} == {MANIFEST}


# ---- refusals


def test_an_image_of_other_settings_is_never_replaced(tmp_path):
    with Gallery(tmp_path) as gallery:
        path = gallery.write(image(1), row())
        with pytest.raises(KoalaError, match=r"0007-a-cat.png exists, drawn with another recipe, dtype; .*--out"):
            gallery.write(image(2), row(dtype="fp16", recipe={"steps": 9}))
    np.testing.assert_array_equal(pixels(path), image(1))


@pytest.mark.parametrize("content", [b"my holiday", encode_png(image(), {"prompt": "another"})])
def test_a_file_that_no_manifest_describes_is_never_replaced(tmp_path, content):
    with Gallery(tmp_path) as gallery:
        (tmp_path / file_name("a cat", 7)).write_bytes(content)
        with pytest.raises(KoalaError, match="no manifest describes it"):
            gallery.write(image(), row())
    assert (tmp_path / file_name("a cat", 7)).read_bytes() == content


def test_a_folder_of_other_files_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("...")
    with pytest.raises(KoalaError, match="holds other files"), Gallery(tmp_path):
        pass
    assert not (tmp_path / MANIFEST).exists()


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "file").write_text("...")
    with pytest.raises(KoalaError, match="is a file"), Gallery(tmp_path / "file"):
        pass


def test_reading_a_folder_without_a_manifest_says_so(tmp_path):
    with pytest.raises(KoalaError, match=r"no gallery.*manifest\.jsonl"):
        Gallery(tmp_path).rows()


OUTSIDE = ("../outside.png", "/etc/passwd", "a/../../outside.png", "..\\outside.png", "C:\\outside.png", "link.png")


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_row_that_names_a_file_outside_its_folder_is_refused(tmp_path, name):
    (tmp_path / "outside.png").write_bytes(b"secret")
    folder = tmp_path / "g"
    with Gallery(folder) as gallery:
        gallery.write(image(), row())
    (folder / "link.png").symlink_to(tmp_path / "outside.png")
    add_line(folder, file=name, prompt="a cat")
    with pytest.raises(KoalaError, match="outside that folder"):
        Gallery(folder).rows()
    with pytest.raises(KoalaError, match="outside that folder"), Gallery(folder):
        pass
    with pytest.raises(KoalaError, match="outside that folder"), Gallery(folder):  # the lock was given back
        pass


@pytest.mark.parametrize("line", [{}, {"file": 3, "prompt": "x"}, {"file": "", "prompt": "x"}, {"file": "a.png"}])
def test_a_row_without_a_file_or_a_prompt_is_refused(tmp_path, line):
    add_line(tmp_path, **line)
    with pytest.raises(KoalaError, match="without a file name or a prompt"):
        Gallery(tmp_path).rows()


# ---- differences


def test_equal_images_do_not_differ():
    assert image_difference(image(), image()) == {
        "identical": True,
        "mean_absolute_levels": 0.0,
        "max_absolute_levels": 0,
        "psnr_db": None,
    }


def test_a_difference_is_in_levels_and_wraps_around_nowhere():
    black, white = np.zeros((4, 6, 3), np.uint8), np.full((4, 6, 3), 255, np.uint8)
    assert image_difference(black, white)["mean_absolute_levels"] == 255
    assert image_difference(white, black)["psnr_db"] == 0.0
    grey = black.copy()
    grey[:2] = 10  # half of the pixels: mean square 50
    found = image_difference(black, grey)
    assert (found["mean_absolute_levels"], found["max_absolute_levels"]) == (5.0, 10)
    assert found["psnr_db"] == pytest.approx(31.1411, abs=1e-4)  # 10 log10(255^2 / 50)
