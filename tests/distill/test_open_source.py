import captioned
import pytest

from koala.distill.data.example import Source
from koala.distill.data.sources import open_source
from koala.errors import KoalaError


def some(kind, path):
    if kind == "folder":
        return captioned.folder(path / "d", 2, side=8)
    if kind == "tar":
        return captioned.tars(path, 2, shards=1, side=8) / "train-0000.tar"
    if kind == "tars":
        return captioned.tars(path / "d", 2, side=8)
    return captioned.parquet(path / "d.parquet", 2, side=8)


@pytest.mark.parametrize("kind", ["folder", "tar", "tars", "parquet"])
def test_every_kind_is_a_source_that_reads_twice_the_same(tmp_path, monkeypatch, kind):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    source = open_source(str(some(kind, tmp_path)))
    assert isinstance(source, Source)
    first, second = ([e for unit in range(len(source.units)) for e in source.read(unit)] for _ in range(2))
    assert first == second == list(source.indexed()) and len(first) == 2
    assert all(isinstance(name, str) and name.replace("-", "").replace("_", "").isalnum() for name in source.units)


@pytest.mark.parametrize(
    "text", ["nowhere", "a/b/c", "data/missing.tar", "https://example.org/x.tar", "", "owner/name:a:b"]
)
def test_what_is_not_there_is_an_error_that_lists_what_is_understood(tmp_path, monkeypatch, text):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(KoalaError, match=r"metadata\.jsonl or metadata\.csv.*\.tar.*parquet.*owner/name"):
        open_source(text)


def test_a_folder_with_nothing_that_is_understood_lists_what_is(tmp_path):
    captioned.picture(0).save(tmp_path / "a.png")
    with pytest.raises(KoalaError, match=r"holds nothing that is understood.*metadata\.jsonl"):
        open_source(str(tmp_path))


def test_endings_may_be_in_capitals_and_hidden_files_are_none(tmp_path):
    some("tar", tmp_path).rename(tmp_path / "A.TAR")
    for name in ("._A.tar", ".cache/b.tar"):
        captioned.tar(tmp_path / name, {})
    assert open_source(str(tmp_path)).units == ["A"]


def parquets(path, *names):
    for name in names:
        captioned.parquet(path / name, 1, side=8)
    return str(path)


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (("data/train-00000-of-00001.parquet", "data/test-00000-of-00001.parquet"), "test: .*; train: "),
        (("train/0.parquet", "validation/0.parquet"), "train: .*; validation: "),
        (("0000.parquet", "val2014.parquet"), r"train: .*0000\.parquet; validation: .*val2014\.parquet"),
        (("dev.parquet", "Eval_1.parquet"), "test: .*; validation: "),
    ],
)
def test_a_folder_of_several_splits_is_refused_and_one_of_them_is_read(tmp_path, names, found):
    folder = parquets(tmp_path / "d", *names)
    with pytest.raises(KoalaError, match=rf"several splits \(.*{found}.*\); give those to train on alone"):
        open_source(folder)
    assert len(open_source(f"{folder}/{names[0]}").units) == 1
    assert len(open_source(f"{folder}/**/*.parquet").units) == 2  # a pattern means what it says


@pytest.mark.parametrize(
    "names",
    [
        ("train-0.parquet", "train-1.parquet"),
        ("test/a.parquet", "test/b.parquet"),
        ("latest.parquet", "contest.parquet"),
    ],
)
def test_files_of_one_split_are_a_source(tmp_path, names):
    assert len(open_source(parquets(tmp_path / "test" / "d", *names)).units) == 2


def test_folders_of_images_of_several_splits_are_refused_too(tmp_path):
    for split in ("train", "test"):
        captioned.folder(tmp_path / split, 1, side=8)
    with pytest.raises(KoalaError, match=r"several splits \(test: .*/test/metadata\.jsonl; train: "):
        open_source(str(tmp_path))
    assert len(list(open_source(str(tmp_path / "train")).read(0))) == 1


def test_a_pattern_of_nothing_is_an_error(tmp_path):
    with pytest.raises(KoalaError, match="no file is like"):
        open_source(str(tmp_path / "*.tar"))


def test_a_pattern_of_unlike_files_is_an_error(tmp_path):
    some("tar", tmp_path)
    some("parquet", tmp_path)
    with pytest.raises(KoalaError, match=r"\.parquet, \.tar"):
        open_source(str(tmp_path / "*"))


def test_another_file_is_an_error(tmp_path):
    (tmp_path / "x.zip").write_bytes(b"PK")
    with pytest.raises(KoalaError, match=r"what is read"):
        open_source(str(tmp_path / "x.zip"))


def test_ranges_multiply_and_keep_their_width(tmp_path):
    for name in ("a0-08", "a0-09", "a0-10", "a1-08", "a1-09", "a1-10"):
        captioned.tar(tmp_path / f"{name}.tar", {})
    source = open_source(str(tmp_path / "a{0..1}-{08..10}.tar"))
    assert source.units == ["a0-08", "a0-09", "a0-10", "a1-08", "a1-09", "a1-10"]
    with pytest.raises(KoalaError, match="runs backwards"):
        open_source(str(tmp_path / "a{3..1}.tar"))


def test_a_name_with_signs_of_a_pattern_is_taken_as_it_is_where_it_exists(tmp_path):
    path = captioned.folder(tmp_path / "set [1] {0..2} *", 1, side=8)
    (example,) = open_source(str(path)).read(0)
    assert example.image.is_file()
