import multiprocessing
import os
import signal
import sys
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from koala.distill.data.recaption import recaption
from koala.errors import KoalaError

sys.path.append(str(Path(__file__).parent))

from captioned_pictures import SHAPES, by_file, picture, rows_of, write_pictures

BY = {"model": "a model", "instruction": "look"}


class Widths:
    """Captions that say how wide an image is; keeps how many images came at once."""

    def __init__(self, pause_s=0.0):
        self.batches, self.pause_s = [], pause_s

    def __call__(self, images):
        self.batches.append(len(images))
        time.sleep(self.pause_s)
        return [f"{image.width}  pixels\nwide " for image in images]


def widths(n):
    return {f"{i}.png": f"{SHAPES[i % len(SHAPES)][1]} pixels wide" for i in range(n)}


@pytest.mark.parametrize("metadata", ["metadata.jsonl", "metadata.csv"])
def test_a_caption_is_one_more_column_and_all_others_stay(tmp_path, metadata):
    folder = write_pictures(tmp_path / "photos", 5, metadata)
    before = rows_of(folder, metadata)
    done = recaption(folder, "llava", Widths, BY, batch_size=2)
    after = rows_of(folder, metadata)
    assert [list(row) for row in after] == [["file_name", "score", "text", "llava"]] * 5
    assert [{k: v for k, v in row.items() if k != "llava"} for row in after] == before
    assert {row["file_name"]: row["llava"] for row in after} == widths(5), "one line, single spaces"
    assert (done.new, done.words, done.without) == (5, 15, {})


def test_a_folder_of_bare_images_gets_metadata(tmp_path):
    folder = write_pictures(tmp_path / "photos", 3, metadata="")
    (folder / "more").mkdir()
    picture(3).save(folder / "more" / "3.png")
    recaption(folder, "llava", Widths, BY)
    assert by_file(folder) == {**widths(3), "more/3.png": "30 pixels wide"}


def test_images_that_cannot_be_read_are_counted_and_named(tmp_path):
    folder = write_pictures(tmp_path / "photos", 4)
    (folder / "1.png").write_bytes((folder / "1.png").read_bytes()[:500])
    (folder / "2.png").unlink()
    done = recaption(folder, "llava", Widths, BY, batch_size=4)
    assert set(done.without) == {"1.png", "2.png"} and done.new == 2
    assert set(by_file(folder)) == {"0.png", "3.png"}


def test_a_model_that_says_nothing_of_an_image_gives_it_no_caption(tmp_path):
    folder = write_pictures(tmp_path / "photos", 2)
    done = recaption(folder, "llava", lambda: lambda images: [" \n", "a koala"], BY)
    assert by_file(folder) == {"1.png": "a koala"} and set(done.without) == {"0.png"}


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(limits=st.lists(st.integers(1, 6), max_size=3), batch_size=st.integers(1, 4))
def test_runs_with_a_limit_caption_every_image_once(tmp_path_factory, limits, batch_size):
    folder = write_pictures(tmp_path_factory.mktemp("limits") / "photos", 6)
    seen = 0
    for limit in [*limits, None, None]:
        captioner = Widths()
        done = recaption(folder, "llava", lambda used=captioner: used, BY, batch_size, limit)
        assert done.earlier == seen and sum(captioner.batches) == done.new
        assert max(captioner.batches, default=0) <= batch_size
        seen += done.new
        assert seen == len(by_file(folder))
    assert by_file(folder) == widths(6) and seen == 6


def slowly(folder):
    recaption(folder, "llava", lambda: Widths(0.02), BY, batch_size=1)


@pytest.mark.parametrize("rows", [1, 4, 9])
def test_a_run_that_is_killed_goes_on_where_it_was(tmp_path, rows):
    folder = write_pictures(tmp_path / "photos", 10)
    before = rows_of(folder)
    child = multiprocessing.get_context("fork").Process(target=slowly, args=(folder,))
    child.start()
    store = folder / ".recaption-llava.jsonl"
    while not store.exists() or store.read_bytes().count(b'"caption"') < rows:
        assert child.is_alive()
        time.sleep(0.002)
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    assert rows_of(folder) == before, "the metadata are as they were"
    kept = store.read_bytes().count(b'"caption"')
    captioner = Widths()
    done = recaption(folder, "llava", lambda: captioner, BY)
    assert done.earlier == kept >= rows and done.new == sum(captioner.batches) == 10 - kept
    assert by_file(folder) == widths(10)


def test_captions_of_another_model_do_not_mix(tmp_path):
    folder = write_pictures(tmp_path / "photos", 2)
    recaption(folder, "llava", Widths, BY, limit=1)
    with pytest.raises(KoalaError, match="model 'a model'"):
        recaption(folder, "llava", Widths, BY | {"model": "another"})
    recaption(folder, "another", Widths, BY | {"model": "another"})
    assert set(rows_of(folder)[0]) == {"file_name", "score", "text", "llava", "another"}


def test_a_column_that_something_else_wrote_is_refused(tmp_path):
    folder = write_pictures(tmp_path / "photos", 2)
    with pytest.raises(KoalaError, match="'text' already"):
        recaption(folder, "text", Widths, BY)
    for name in ("file_name", "a/b", ""):
        with pytest.raises(KoalaError, match="cannot be a caption column"):
            recaption(folder, name, Widths, BY)


def test_what_is_no_folder_of_images_is_refused(tmp_path):
    (tmp_path / "shard.tar").write_bytes(b"")
    with pytest.raises(KoalaError, match="write tars or parquet out as images"):
        recaption(tmp_path / "shard.tar", "llava", Widths, BY)
    (tmp_path / "empty").mkdir()
    with pytest.raises(KoalaError, match="holds no images"):
        recaption(tmp_path / "empty", "llava", Widths, BY)
    folder = write_pictures(tmp_path / "photos", 1)
    (folder / "metadata.jsonl").write_bytes('{"file_name": "0.png", "text": "café"}\n'.encode("latin-1"))
    with pytest.raises(KoalaError, match="as UTF-8"):
        recaption(folder, "llava", Widths, BY)


@pytest.mark.parametrize("name", ["metadata.jsonl", "metadata.csv"])
def test_rows_that_cannot_be_read_stay_as_they_are(tmp_path, name):
    folder = write_pictures(tmp_path / "photos", 2, name)
    good, torn = (folder / name).read_text(), '{"file_name": "9.png' if name.endswith("jsonl") else "9.png,1,a,b,c"
    (folder / name).write_text(f"{good}{torn}\n")
    done = recaption(folder, "llava", Widths, BY)
    assert done.new == 2 and list(done.without) == [f"{name}, row 3"]
    assert (folder / name).read_text().splitlines()[-1].startswith(torn)
    again = recaption(folder, "llava", Widths, BY)
    assert again.earlier == 2 and list(again.without) == [f"{name}, row 3"]


def test_metadata_further_down_get_their_own_captions(tmp_path):
    for part in ("a", "b"):
        write_pictures(tmp_path / "photos" / part, 3)
    recaption(tmp_path / "photos", "llava", Widths, BY, batch_size=4)
    assert by_file(tmp_path / "photos" / "a") == by_file(tmp_path / "photos" / "b") == widths(3)


def test_text_that_is_no_utf8_once_decoded_survives(tmp_path):
    folder = write_pictures(tmp_path / "photos", 1)
    (folder / "metadata.jsonl").write_text('{"file_name": "0.png", "text": "half \\ud83d", "tags": ["ü"]}')
    recaption(folder, "llava", Widths, BY)
    assert rows_of(folder)[0]["text"] == "half \ud83d" and rows_of(folder)[0]["tags"] == ["ü"]
