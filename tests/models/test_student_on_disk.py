"""Where a student is written, and what is there when writing stops half-way."""

import pytest
from safetensors import SafetensorError, safe_open

from koala.errors import KoalaError
from koala.models import zoo
from koala.models.networks import meta_networks
from koala.models.student import unet_weights, write_student

FILE = "diffusion_pytorch_model.safetensors"
SDXL, KOALA = zoo.get("tiny-sdxl"), zoo.get("tiny-koala-700m")


@pytest.fixture(scope="module")
def sdxl():
    """A teacher with random weights; not to be changed."""
    return unet_weights(SDXL, "random")


@pytest.mark.parametrize("content", ["file", "folder"])
def test_a_place_that_is_taken_is_refused(content, sdxl, tmp_path):
    out = tmp_path / "student"
    if content == "folder":
        out.mkdir()
    kept = out if content == "file" else out / "mine.txt"
    kept.write_text("mine")
    with pytest.raises(KoalaError, match="student exists; choose another name or remove it"):
        write_student(SDXL, KOALA, sdxl, out)
    assert kept.read_text() == "mine"
    assert len(list(tmp_path.rglob("*.*"))) == (0 if content == "file" else 1)


def test_an_empty_folder_is_filled_and_missing_parents_are_made(sdxl, tmp_path):
    (tmp_path / "empty").mkdir()
    for out in (tmp_path / "empty", tmp_path / "a" / "b"):
        write_student(SDXL, KOALA, sdxl, out)
        assert (out / FILE).exists()


def test_a_folder_that_cannot_be_written_is_a_readable_error(sdxl, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(KoalaError, match="cannot write"):
        write_student(SDXL, KOALA, sdxl, tmp_path / "file" / "folder")


def test_a_kill_at_any_moment_leaves_nothing_that_reads_as_whole(sdxl, tmp_path):
    out = tmp_path / "student"
    keys = list(meta_networks(KOALA, ("unet",))["unet"].state_dict())
    seen = []

    def look(key):
        seen.append(key)
        assert not out.exists()
        if len(seen) % 50 == 0 and key != keys[-1]:
            (unfinished,) = tmp_path.rglob("*.safetensors")
            with pytest.raises(SafetensorError):
                safe_open(unfinished, "pt")

    write_student(SDXL, KOALA, sdxl, out, on_tensor=look)
    assert seen == keys
    assert [path.name for path in tmp_path.iterdir()] == ["student"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, KoalaError, OSError])
def test_what_was_begun_is_removed_when_it_cannot_be_finished(error, sdxl, tmp_path):
    def fail(_):
        raise error

    with pytest.raises((KeyboardInterrupt, KoalaError)):
        write_student(SDXL, KOALA, sdxl, tmp_path / "student", on_tensor=fail)
    assert not list(tmp_path.iterdir())
