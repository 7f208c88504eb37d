import io
import json
import os
import tarfile
import tracemalloc
from pathlib import Path

import captioned
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from koala.distill.data.example import Source
from koala.distill.data.images import Broken, decode
from koala.distill.data.sources import open_source
from koala.distill.data.tars import Tars
from koala.errors import KoalaError

PNG = captioned.encoded(captioned.picture(1, 8, 8))


def everything(source: Source):
    return [example for unit in range(len(source.units)) for example in source.read(unit)]


def read(path, files):
    """The examples of one shard with these files."""
    source = open_source(str(captioned.tar(path / "s.tar", files)))
    examples = everything(source)
    assert list(source.indexed()) == examples
    return examples


def test_shards_give_their_images_texts_and_fields(tmp_path):
    source = open_source(str(captioned.tars(tmp_path, 5)))
    assert source.units == ["train-0000", "train-0001"] and isinstance(source, Source)
    examples = everything(source)
    assert [one.key for one in examples] == [f"train-000{n % 2}/{n:06d}" for n in (0, 2, 4, 1, 3)]
    assert [dict(one.columns) for one in examples] == [captioned.columns(n) for n in (0, 2, 4, 1, 3)]
    assert decode(examples[0].image).tobytes() == captioned.picture(0).tobytes()


@pytest.mark.parametrize("text", ["train-{0000..0001}.tar", "train-*.tar", "", "train-000[01].tar"])
def test_a_folder_a_pattern_and_a_range_are_the_same_shards(tmp_path, text):
    captioned.tars(tmp_path, 5)
    source = open_source(str(tmp_path / text))
    assert source.units == ["train-0000", "train-0001"] and len(everything(source)) == 5


def test_examples_by_number_are_those_that_are_read_in_order(tmp_path):
    source = open_source(str(captioned.tars(tmp_path, 7, shards=3)))
    indexed, examples = source.indexed(), everything(source)
    assert len(indexed) == 7
    assert [indexed[n] for n in (6, 2, 0, 5, 3)] == [examples[n] for n in (6, 2, 0, 5, 3)]


def test_keys_end_at_the_first_dot_of_the_name_as_in_webdataset(tmp_path):
    files = {"./v1.0/a.png": PNG, "./v1.0/a.llava.txt": b"rich", "./v1.0/a.TXT": b"short", "./v1.0/b.JPG": PNG}
    first, second = read(tmp_path, files)
    assert (first.key, dict(first.columns)) == ("s/v1.0/a", {"text": "short", "llava": "rich"})
    assert second.key == "s/v1.0/b"


def test_the_image_is_the_file_with_the_plainest_name(tmp_path):
    (example,) = read(tmp_path, {"a.mask.png": b"mask", "a.jpg": b"image", "a.cls": b"7"})
    assert example.image == b"image"


def test_an_example_without_an_image_or_with_bad_json_is_listed(tmp_path):
    files = {"a.txt": b"x", "b.png": PNG, "b.json": b"{", "c.png": PNG, "c.json": b"[1]", "d.png": PNG}
    examples = read(tmp_path, files)
    assert [one.problem.partition(":")[0] for one in examples] == [
        "no image beside txt",
        "its json is no object of JSON",
        "its json is no object of JSON",
        "",
    ]


def test_a_key_that_comes_twice_is_an_example_each_time(tmp_path):
    path = tmp_path / "s.tar"
    with tarfile.open(path, "w") as tar:
        for name, data in [
            ("a.png", PNG),
            ("a.txt", b"1"),
            ("a.png", PNG),
            ("a.txt", b"2"),
            ("b.png", PNG),
            ("a.png", PNG),
        ]:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    examples = everything(open_source(str(path)))
    assert [(one.key, one.columns.get("text")) for one in examples] == [
        ("s/a", "1"),
        ("s/a", "2"),
        ("s/b", None),
        ("s/a", None),
    ]


def test_texts_that_are_not_utf8_and_names_in_any_script_are_read(tmp_path):
    first, second = read(tmp_path, {"日本.png": PNG, "日本.txt": "語".encode(), "b.png": PNG, "b.txt": b"sch\xf6n"})
    assert (first.key, first.columns["text"]) == ("s/日本", "語") and second.columns["text"] == "sch\ufffdn"


def test_folders_links_and_hidden_files_in_a_tar_are_no_examples(tmp_path):
    path = captioned.tar(tmp_path / "s.tar", {"._a.png": b"x", ".DS_Store": b"x", "noext": b"x", "a.png": PNG})
    with tarfile.open(path, "a") as tar:
        for name, kind in [("d.png", tarfile.DIRTYPE), ("l.png", tarfile.SYMTYPE)]:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "/etc/passwd"
            tar.addfile(member)
    assert [one.key for one in everything(open_source(str(path)))] == ["s/a"]


@settings(max_examples=60)
@given(st.integers(0, 2**20))
def test_a_tar_cut_anywhere_gives_its_whole_examples_and_says_once_that_it_breaks_off(tmp_path_factory, place):
    folder = tmp_path_factory.mktemp("cut")
    whole = captioned.tars(folder, 4, shards=1, side=8) / "train-0000.tar"
    examples = everything(Tars([whole], "t"))
    data = whole.read_bytes()
    whole.write_bytes(data[: place % len(data.rstrip(b"\0"))])  # before the mark of the end
    source = Tars([whole], "t")
    *left, last = everything(source)
    assert "breaks off" in last.problem
    assert [one.key for one in left] == [one.key for one in examples[: len(left)]]
    assert all(one == other for one, other in zip(left[:-1], examples, strict=False))  # the last may lack its texts
    if left:
        assert left[-1].image == examples[len(left) - 1].image
    assert len(left) >= sum(data.find(one.image) + len(one.image) <= len(whole.read_bytes()) for one in examples)
    assert list(source.indexed()) == [*left, last]


@pytest.mark.parametrize("data", [b"", b"no tar at all" * 100, os.urandom(2000)])
def test_a_shard_that_is_no_tar_is_listed_and_the_others_are_read(tmp_path, data):
    captioned.tars(tmp_path, 2)
    (tmp_path / "train-0000.tar").write_bytes(data)
    lost, good = everything(open_source(str(tmp_path)))
    assert "breaks off at byte 0" in lost.problem and lost.key.startswith("train-0000") and not good.problem


def test_a_damaged_header_in_the_middle_ends_the_shard(tmp_path):
    path = captioned.tar(tmp_path / "s.tar", {"a.png": PNG, "b.png": PNG})
    data = bytearray(path.read_bytes())
    second = data.index(b"b.png")
    data[second : second + 400] = os.urandom(400)
    path.write_bytes(data)
    first, last = everything(open_source(str(path)))
    assert first.key == "s/a" and f"breaks off at byte {second}" in last.problem


def test_a_broken_image_is_only_found_when_it_is_decoded(tmp_path):
    (example,) = read(tmp_path, {"a.png": PNG[:50]})
    with pytest.raises(Broken, match="damaged"):
        decode(example.image)


def test_shards_of_one_name_in_two_folders_get_names_of_their_own(tmp_path):
    for name in ("x", "y", "x/deep", "y/deep"):
        captioned.tars(tmp_path / "here" / name, 2, shards=1)
    source = open_source(str(tmp_path / "here"))
    assert len(set(source.units)) == 4
    assert len({one.key for one in everything(source)}) == 8
    (tmp_path / "here").rename(tmp_path / "there")
    assert open_source(str(tmp_path / "there")).units == source.units


def test_the_number_of_a_class_is_a_column(tmp_path):
    (example,) = read(tmp_path, {"a.png": PNG, "a.cls": b"7", "a.json": b'{"cls": 1, "name": "dog"}'})
    assert example.columns == {"cls": "7", "name": "dog"}


def test_a_missing_shard_of_a_range_is_named(tmp_path):
    captioned.tars(tmp_path, 2)
    with pytest.raises(KoalaError, match=r"not there: .*train-0002\.tar"):
        open_source(str(tmp_path / "train-{0000..0002}.tar"))


def test_reading_a_shard_holds_one_example_and_no_headers_of_those_before(tmp_path):
    def peak(n):
        files = {}
        for number in range(n):
            files[f"{number:06d}.png"] = os.urandom(20_000)
            files[f"{number:06d}.json"] = json.dumps({"text": "x" * 100}).encode()
        source = Tars([captioned.tar(tmp_path / f"{n}.tar", files)], "t")
        tracemalloc.start()
        try:
            assert sum(1 for _ in source.read(0)) == n
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    few = peak(10)
    assert peak(200) < few + 40_000  # the headers of 400 files take several times that


def test_no_file_stays_open_also_where_reading_stops_early(tmp_path):
    source = open_source(str(captioned.tars(tmp_path, 6)))
    before = len(list(Path("/proc/self/fd").iterdir()))
    examples = source.read(0)
    next(examples)
    examples.close()
    everything(source)
    assert source.indexed()[5].key
    assert len(list(Path("/proc/self/fd").iterdir())) == before
