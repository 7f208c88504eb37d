import hashlib
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from bad_images import PIXELS, empty, good

from eval import folder_hashes as module
from eval.features import FeatureSet
from eval.images import Picture, decode
from eval.maths.gaussian import Gaussian, gaussian
from eval.reference import Reference
from eval.sources import Item
from eval.statistics_files import write_statistics
from koala.errors import KoalaError
from koala.harness.cache import cache_folder
from koala.sampling.gallery import Gallery

FEED, DIM = "f" * 16, 3


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("KOALA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def folder(tmp_path) -> Path:
    for seed in range(6):
        good(tmp_path / "photos", f"{seed}.png", seed)
    return tmp_path / "photos"


def look(items: list[Item], reference: Reference, feed: str = FEED) -> set[Path]:
    """Decode, compute features (the mean colour stands for a network) and spool, as the engine does; the bad ones."""
    bad = set()
    with reference.spool(feed, DIM) as spool:
        for item in items:
            picture = decode(item.path)
            if isinstance(picture, Picture):
                spool.append([picture.sha256], torch.from_numpy(picture.pixels).float().mean(dim=(0, 1))[None])
            else:
                bad.add(item.path)
    return bad


def seen(path: Path) -> Reference:
    reference = Reference(path)
    look(reference.missing(FEED, DIM), reference)
    return reference


def cached(reference: Reference) -> FeatureSet | Gaussian | None:
    """The features of all images; null while any is missing."""
    return None if reference.images and reference.missing(FEED, DIM) else reference.features(FEED, DIM)


def test_features_are_asked_for_once_and_kept_for_each_feed(folder):
    reference = Reference(folder)
    assert [item.file for item in reference.missing(FEED, DIM)] == [f"{seed}.png" for seed in range(6)]
    assert cached(reference) is None and reference.name == "photos"
    look(reference.missing(FEED, DIM)[:4], reference)  # a run that was killed
    assert [item.file for item in reference.missing(FEED, DIM)] == ["4.png", "5.png"]
    look(reference.missing(FEED, DIM), reference)
    again = Reference(folder)
    assert again.missing(FEED, DIM) == [] and again.missing("another", DIM) == list(again.items)
    features = cached(again)
    assert isinstance(features, FeatureSet) and len(features) == 6 and features.dim == DIM


def test_the_same_pictures_are_the_same_reference_wherever_they_lie_and_however_they_are_called(folder, tmp_path):
    features = cached(seen(folder))
    (tmp_path / "copy" / "sub").mkdir(parents=True)
    for number, path in enumerate(sorted(folder.iterdir(), reverse=True)):
        shutil.copyfile(path, tmp_path / "copy" / "sub" / f"x{number}.png")
    copy = Reference(tmp_path / "copy")
    assert copy.content == Reference(folder).content
    assert torch.equal(cached(copy).all(), features.all())
    good(folder, "7.png", seed=7)
    assert Reference(folder).content != copy.content and cached(Reference(folder)) is None


def test_pictures_that_are_there_twice_count_twice_and_are_looked_at_once(folder):
    shutil.copyfile(folder / "0.png", folder / "9.png")
    reference = Reference(folder)
    assert len(reference.missing(FEED, DIM)) == 6
    look(reference.missing(FEED, DIM), reference)
    assert len(cached(reference)) == 7


def test_unreadable_images_are_tried_each_time_and_left_out(folder):
    (folder / "text.png").write_text("no image")
    (folder / "text2.png").write_text("no image")
    empty(folder)
    for _ in range(2):
        reference = Reference(folder)
        bad = look(reference.missing(FEED, DIM), reference)
        assert {path.name for path in bad} == {"text.png", "empty.png"}  # text2 is the same file again
        assert cached(reference) is None
        assert len(reference.features(FEED, DIM, bad)) == 6
        with pytest.raises(KoalaError, match="3 images without features"):
            reference.features(FEED, DIM)


def test_mean_and_covariance_are_kept_beside_the_features(folder, cache, monkeypatch):
    features = cached(seen(folder))
    expected = gaussian([features.all()])
    assert torch.equal(features.gaussian.covariance, expected.covariance) and features.gaussian.n == 6
    (kept,) = cache.glob(f"references/*/{FEED}.*.npz")
    monkeypatch.setattr("eval.features.gaussian", lambda chunks: pytest.fail("computed again"))
    again = cached(Reference(folder)).gaussian
    assert torch.equal(again.mean, expected.mean) and again.n == 6
    monkeypatch.undo()
    monkeypatch.setenv("KOALA_CACHE", str(cache))
    kept.write_bytes(b"damaged")
    assert torch.equal(cached(Reference(folder)).gaussian.mean, expected.mean)


def test_files_are_hashed_once_and_again_when_they_change(folder, monkeypatch):
    hashed = []
    real = module.sha256_of

    def counting(path: Path) -> str:
        hashed.append(path.name)
        return real(path)

    monkeypatch.setattr(module, "sha256_of", counting)
    first = Reference(folder)
    assert sorted(hashed) == [f"{seed}.png" for seed in range(6)]
    assert first.content == hashlib.sha256("".join(sorted(map(real, folder.iterdir()))).encode()).hexdigest()
    hashed.clear()
    assert Reference(folder).content == first.content and not hashed
    state = (folder / "3.png").stat()
    data = bytearray((folder / "3.png").read_bytes())
    data[-20] ^= 1
    (folder / "3.png").write_bytes(data)
    os.utime(folder / "3.png", ns=(state.st_atime_ns, state.st_mtime_ns))  # as a copying tool does
    assert Reference(folder).content != first.content and hashed == ["3.png"]


def test_a_damaged_cache_of_hashes_is_made_anew(folder, cache):
    content = Reference(folder).content
    (store,) = (cache / "hashes").iterdir()
    for text in ("{", "[]", '{"0.png": 3}', '{"0.png": []}'):
        store.write_text(text)
        assert Reference(folder).content == content


def test_a_gallery_is_a_reference_if_it_holds_one_set(tmp_path):
    row = {"prompt": "a", "seed": 1, "model": "sdxl", "weights": "hub"}
    with Gallery(tmp_path / "g") as gallery:
        gallery.write(PIXELS, row)
        assert Reference(tmp_path / "g").name == "sdxl"
        gallery.write(PIXELS, row | {"seed": 2, "model": "koala-1b"})
    with pytest.raises(KoalaError, match=r"2 sets \(sdxl, koala-1b\); a reference is one set"):
        Reference(tmp_path / "g")


# ---- files of statistics


@pytest.fixture
def statistics() -> Gaussian:
    return gaussian([torch.from_numpy(np.random.default_rng(0).normal(size=(20, DIM)).astype(np.float32))])


def test_a_file_of_statistics_gives_its_gaussian_and_has_no_images(tmp_path, statistics):
    write_statistics(tmp_path / "s.npz", statistics, "pytorch-fid")
    reference = Reference(tmp_path / "s.npz")
    assert torch.equal(cached(reference).covariance, statistics.covariance)
    assert reference.items == () and reference.name == "s.npz"
    assert reference.content == hashlib.sha256((tmp_path / "s.npz").read_bytes()).hexdigest()


def test_statistics_of_another_width_or_feed_are_refused(tmp_path, statistics):
    origin = {"feed": FEED, "extractor": "inception"}
    write_statistics(tmp_path / "s.npz", statistics, origin=origin)
    reference = Reference(tmp_path / "s.npz")
    assert isinstance(cached(reference), Gaussian)
    with pytest.raises(KoalaError, match=r"s\.npz holds statistics of 3 features and 2048 are asked for .*inception"):
        reference.features(FEED, 2048)
    with pytest.raises(KoalaError, match=r"of other features than are asked for .*inception"):
        reference.features("0" * 16, DIM)


def test_what_is_no_reference_is_one_clear_error(tmp_path):
    with pytest.raises(KoalaError, match="does not exist; a reference is a folder of images or a file of statistics"):
        Reference(tmp_path / "nowhere")
    with pytest.raises(KoalaError, match=r"good\.png is no whole \.npz"):
        Reference(good(tmp_path))


# ---- the cache


def test_the_cache_is_where_the_environment_says(tmp_path, monkeypatch):
    assert cache_folder() == tmp_path / "cache"
    monkeypatch.delenv("KOALA_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "koala-bench"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder() == tmp_path / "home" / ".cache" / "koala-bench"


def test_a_cache_that_cannot_be_written_is_an_error_that_says_where_else(folder, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("KOALA_CACHE", str(tmp_path / "file"))
    with pytest.raises(KoalaError, match=r"cannot write"):
        Reference(folder).spool(FEED, DIM)
