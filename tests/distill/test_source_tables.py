import os

import captioned
import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from koala.distill.data import tables
from koala.distill.data.example import Source
from koala.distill.data.images import decode
from koala.distill.data.sources import open_source
from koala.distill.data.tables import Hub, Parquet
from koala.errors import KoalaError


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """The datasets library writes nowhere else, and is quiet."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets-cache")
    datasets.disable_progress_bars()


def everything(source: Source):
    return [example for unit in range(len(source.units)) for example in source.read(unit)]


def test_parquet_gives_its_images_undecoded_and_its_columns(tmp_path):
    source = open_source(str(captioned.parquet(tmp_path / "data.parquet", 3)))
    examples = everything(source)
    assert isinstance(source, Source) and source.units == ["data-000000000"]
    assert [one.key for one in examples] == [f"data-000000000/{n}" for n in range(3)]
    assert [dict(one.columns) for one in examples] == [captioned.columns(n) for n in range(3)]
    assert examples[2].image == captioned.encoded(captioned.picture(2))


def test_units_are_row_groups_that_hold_enough_rows_together(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "ROWS_PER_UNIT", 5)
    captioned.parquet(tmp_path / "a.parquet", 14, side=8, row_group=3)
    captioned.parquet(tmp_path / "b.parquet", 2, side=8)
    source = open_source(str(tmp_path))
    assert source.units == ["a-000000000", "a-000000006", "a-000000012", "b-000000000"]
    assert [one.columns["text"].split()[-1] for one in everything(source)] == [*map(str, range(14)), "0", "1"]


@pytest.mark.parametrize("text", ["", "*.parquet", "a*.parquet"])
def test_a_folder_and_a_pattern_are_the_same_files(tmp_path, text):
    captioned.parquet(tmp_path / "a-1.parquet", 2, side=8)
    assert len(everything(open_source(str(tmp_path / text)))) == 2


def test_examples_by_number_are_those_that_are_read_in_order(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "ROWS_PER_UNIT", 3)
    captioned.parquet(tmp_path / "b[1].parquet", 7, side=8, row_group=2)
    captioned.parquet(tmp_path / "a.parquet", 2, side=8)
    source = open_source(str(tmp_path))
    assert list(source.indexed()) == everything(source)


@pytest.mark.parametrize("column", ["image", "jpg", "picture"])
def test_plain_bytes_are_images_too(tmp_path, column):
    pq.write_table(pa.table({column: [b"one", b"two"], "text": ["a", "b"]}), tmp_path / "t.parquet")
    source = open_source(str(tmp_path / "t.parquet"))
    assert [one.image for one in everything(source)] == [b"one", b"two"]
    assert [one.image for one in source.indexed()] == [b"one", b"two"]


def test_of_several_columns_of_bytes_the_one_called_image_is_taken(tmp_path):
    pq.write_table(pa.table({"mask": [b"mask"], "image": [b"image"]}), tmp_path / "t.parquet")
    (example,) = everything(open_source(str(tmp_path / "t.parquet")))
    assert example.image == b"image" and example.columns == {"mask": b"mask"}


@pytest.mark.parametrize("names", [["url", "text"], ["mask", "depth"]])
def test_a_table_without_a_column_of_images_says_which_columns_there_are(tmp_path, names):
    cells = ["x"] if names[0] == "url" else [b"x"]
    pq.write_table(pa.table(dict.fromkeys(names, cells)), tmp_path / "t.parquet")
    with pytest.raises(KoalaError, match=f"no column of images.*there are: {', '.join(names)}"):
        open_source(str(tmp_path / "t.parquet"))


def test_rows_without_an_image_are_listed_and_a_path_in_a_table_is_never_opened(tmp_path):
    captioned.picture(0).save(tmp_path / "secret.png")
    images = [
        {"bytes": None, "path": str(tmp_path / "secret.png")},
        None,
        {"bytes": b"", "path": None},
        {"bytes": b"x"},
    ]
    pq.write_table(pa.table({"image": images}), tmp_path / "t.parquet")
    examples = everything(open_source(str(tmp_path / "t.parquet")))
    assert [one.problem for one in examples] == ["no image in its row"] * 3 + [""]


def test_a_file_that_is_no_parquet_is_an_error_that_names_it(tmp_path):
    captioned.parquet(tmp_path / "a.parquet", 2, side=8)
    (tmp_path / "b.parquet").write_bytes((tmp_path / "a.parquet").read_bytes()[:-20])
    with pytest.raises(KoalaError, match=r"cannot read .*b\.parquet as parquet"):
        open_source(str(tmp_path))


def test_a_table_damaged_inside_gives_the_rows_before_and_the_units_after(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "ROWS_PER_UNIT", 2)
    path = captioned.parquet(tmp_path / "a.parquet", 6, side=8, row_group=2)
    data = bytearray(path.read_bytes())
    start = pq.ParquetFile(path).metadata.row_group(1).column(0).data_page_offset
    data[start : start + 40] = b"\xff" * 40
    path.write_bytes(data)
    examples = everything(open_source(str(path)))
    assert [bool(one.problem) for one in examples] == [False, False, True, False, False]
    assert examples[2].key == "a-000000002/0" and "damaged" in examples[2].problem


def test_a_table_is_read_in_small_batches(tmp_path, monkeypatch):
    path = captioned.parquet(tmp_path / "a.parquet", 50, side=8)
    taken = []
    original = pq.ParquetFile.iter_batches

    def watched(*args, **options):
        for batch in original(*args, **options):
            taken.append(batch.num_rows)
            yield batch

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", watched)
    next(Parquet([path], "a").read(0))
    assert taken == [16]


def test_reading_a_row_group_never_holds_all_of_it(tmp_path):
    path = tmp_path / "a.parquet"
    images = pa.table({"image": [os.urandom(50_000) for _ in range(400)]})
    pq.write_table(images, path, data_page_size=2**16, write_batch_size=16)  # a page is what is held at least
    del images
    assert pq.ParquetFile(path).num_row_groups == 1
    before, most = pa.total_allocated_bytes(), 0
    for _ in Parquet([path], "a").read(0):
        most = max(most, pa.total_allocated_bytes() - before)
    assert most < 8_000_000  # of 20,000,000


# No hub answers here: a repository on the disk goes through the same doors of the datasets library.


def repository(path, files=2):
    for number in range(files):
        captioned.parquet(path / "data" / f"train-{number:05d}-of-{files:05d}.parquet", 3 + number, side=8)
    captioned.parquet(path / "data" / "test-00000-of-00001.parquet", 1, side=8)
    return str(path)


def test_a_dataset_is_read_file_by_file_with_its_images_undecoded(tmp_path):
    source = Hub(repository(tmp_path / "repository"))
    assert isinstance(source, Source) and source.units == ["train-00000", "train-00001"]
    examples = everything(source)
    assert [one.key for one in examples] == [
        f"train-{u:05d}/{n}" for u, count in ((0, 3), (1, 4)) for n in range(count)
    ]
    assert examples[1].image == captioned.encoded(captioned.picture(1, 8, 8))
    assert dict(examples[1].columns) == captioned.columns(1)
    assert everything(source) == examples


def test_a_split_of_a_dataset_is_chosen_by_its_name(tmp_path):
    source = Hub(repository(tmp_path / "repository"), "test")
    assert source.units == ["test-00000"] and len(everything(source)) == 1


def test_a_dataset_by_number_has_the_same_rows(tmp_path):
    source = Hub(repository(tmp_path / "repository"))
    indexed = source.indexed()
    assert len(indexed) == 7
    assert [(one.image, one.columns) for one in indexed] == [(one.image, one.columns) for one in everything(source)]


def test_a_dataset_of_image_files_gives_their_bytes(tmp_path):
    source = Hub(str(captioned.folder(tmp_path / "repository", 2)))
    images = [one.image for one in everything(source)]
    assert all(isinstance(image, bytes) for image in images)
    assert [decode(image).tobytes() for image in images] == [captioned.picture(n).tobytes() for n in range(2)]


def test_an_id_opens_that_dataset_and_split(tmp_path, monkeypatch):
    asked, real = [], datasets.load_dataset
    path = repository(tmp_path / "repository")

    def load_dataset(name, **options):
        asked.append((name, options))
        return real(path, **options)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    source = open_source("owner/some.name:test")
    assert asked == [("owner/some.name", {"split": "test", "streaming": True})]
    assert source.name == "owner/some.name:test" and len(everything(source)) == 1
    assert open_source("owner/name").name == "owner/name:train"


def test_a_dataset_that_cannot_be_had_is_an_error_with_the_reason(tmp_path, monkeypatch):
    def load_dataset(name, **options):
        raise ConnectionError(f"Couldn't reach {name!r}")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(KoalaError, match=r"'owner/name'.*no such path.*Couldn't reach"):
        open_source("owner/name")


def test_a_split_that_is_not_there_is_an_error_that_lists_those_there_are(tmp_path):
    with pytest.raises(KoalaError, match=r"(?s)split 'val'.*train.*test|split 'val'.*test.*train"):
        Hub(repository(tmp_path / "repository"), "val")


def test_a_connection_that_is_lost_is_an_error_and_no_broken_image(tmp_path, monkeypatch):
    source = Hub(repository(tmp_path / "repository"))

    class Lost:
        num_shards = 2

        def shard(self, *_):
            return self

        def __iter__(self):
            raise ConnectionError("gone")

    source._rows = Lost()
    with pytest.raises(KoalaError, match=r"broke off.*gone"):
        list(source.read(0))
