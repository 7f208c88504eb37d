import csv
import json
import tracemalloc
from pathlib import Path

import captioned
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from koala.distill.data import folder as folders
from koala.distill.data.example import Source
from koala.distill.data.folder import CommaSeparated, Folder, JsonLines
from koala.distill.data.images import decode
from koala.distill.data.sources import open_source
from koala.errors import KoalaError
from koala.sampling.gallery import SETTINGS, Gallery


def everything(source: Source):
    return [example for unit in range(len(source.units)) for example in source.read(unit)]


def keys(source: Source):
    return [example.key for example in everything(source)]


def listing(tmp_path, *rows):
    captioned.picture(0).save(tmp_path / "a.png")
    return captioned.write_rows(tmp_path / "metadata.jsonl", list(rows)).parent


def test_a_folder_gives_its_images_and_columns_in_the_order_of_its_metadata(tmp_path):
    source = open_source(str(captioned.folder(tmp_path / "data", 3)))
    examples = everything(source)
    assert source.name == "data" and isinstance(source, Source)
    assert [example.key for example in examples] == ["images/0000.png", "images/0001.png", "images/0002.png"]
    assert [dict(example.columns) for example in examples] == [captioned.columns(number) for number in range(3)]
    for number, example in enumerate(examples):
        assert decode(example.image).tobytes() == captioned.picture(number).tobytes()


def test_the_datasets_library_reads_the_same_from_the_same_folder(tmp_path):
    import datasets

    path = captioned.folder(tmp_path / "data", 3)
    theirs = datasets.load_dataset("imagefolder", data_dir=str(path), split="train", cache_dir=str(tmp_path / "cache"))
    for example, row in zip(everything(open_source(str(path))), theirs, strict=True):
        assert decode(example.image).tobytes() == row.pop("image").convert("RGB").tobytes()
        assert dict(example.columns) == row


@pytest.mark.parametrize("n", [1, 3, 4, 10])
def test_units_cut_the_rows_without_losing_one(tmp_path, monkeypatch, n):
    monkeypatch.setattr(folders, "ROWS_PER_UNIT", 3)
    source = open_source(str(captioned.folder(tmp_path, n, side=8)))
    assert len(source.units) == -(-n // 3) == len(set(source.units))
    assert keys(source) == [f"images/{number:04d}.png" for number in range(n)]


def test_units_and_their_examples_are_the_same_on_every_run_and_at_every_place(tmp_path, monkeypatch):
    monkeypatch.setattr(folders, "ROWS_PER_UNIT", 2)
    sources = [open_source(str(captioned.folder(tmp_path / name / "data", 5, side=8))) for name in ("one", "two")]
    assert sources[0].units == sources[1].units and keys(sources[0]) == keys(sources[1]) == keys(sources[0])
    assert all(name.replace("-", "").isalnum() for name in sources[0].units)


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_examples_by_number_are_those_that_are_read_in_order(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(folders, "ROWS_PER_UNIT", 3)
    if kind == "jsonl":
        captioned.folder(tmp_path, 7, side=8)
    else:
        rows = [f'{number}.png,"a {number}, with\r\na line, and ü"\r\n' for number in range(7)]
        (tmp_path / "metadata.csv").write_bytes(b"file_name,text\r\n" + "".join(rows).encode())
    source = open_source(str(tmp_path))
    indexed = source.indexed()
    assert len(indexed) == 7
    assert [indexed[number] for number in (6, 0, 3, 1, 2, 4, 5)] == [
        everything(source)[n] for n in (6, 0, 3, 1, 2, 4, 5)
    ]
    with pytest.raises(IndexError):
        indexed[7]


def test_csv_cells_may_span_lines_and_hold_commas_quotes_and_any_script(tmp_path):
    text = '\ufefffile_name,text,note\na.png,"two\nlines, ""quoted""",ü\n\nsub/b.png,日本語,\n'
    (tmp_path / "metadata.csv").write_text(text, encoding="utf-8")
    examples = everything(open_source(str(tmp_path)))
    assert [(one.key, dict(one.columns)) for one in examples] == [
        ("a.png", {"text": 'two\nlines, "quoted"', "note": "ü"}),
        ("sub/b.png", {"text": "日本語", "note": ""}),
    ]


def test_a_csv_that_is_not_utf8_is_refused_with_the_fix(tmp_path):
    (tmp_path / "metadata.csv").write_bytes("file_name,text\na.png,schön\n".encode("latin-1"))
    with pytest.raises(KoalaError, match=r"not UTF-8.*save it as UTF-8"):
        _ = open_source(str(tmp_path)).units


def test_a_csv_row_of_another_length_is_listed_and_the_others_are_read(tmp_path):
    (tmp_path / "metadata.csv").write_text("file_name,text\na.png,one\nb.png\nc.png,x,y\nd.png,two\n")
    examples = everything(open_source(str(tmp_path)))
    assert [one.problem for one in examples] == ["", "1 cells for 2 columns", "3 cells for 2 columns", ""]
    assert examples[1].key == "metadata.csv, row 2"


@pytest.mark.parametrize(
    "line", [b'{"file_name": "b.png", "te', b"[1]", b"\xff\xfe\x00", b"[" * 100_000, b'"text"', b'{"text": "no name"}']
)
def test_a_bad_line_costs_itself_alone(tmp_path, line):
    good = json.dumps({"file_name": "a.png", "text": "ä"}).encode()
    (tmp_path / "metadata.jsonl").write_bytes(good + b"\n" + line + b"\n\n" + good + b"\n")
    source = open_source(str(tmp_path))
    examples = everything(source)
    assert [bool(one.problem) for one in examples] == [False, True, False]
    assert examples[1].key == "metadata.jsonl, row 2" and examples[1].image == b""
    assert list(source.indexed()) == examples


def test_a_torn_last_line_costs_itself_alone(tmp_path):
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.png"}\n{"file_na')
    assert [bool(one.problem) for one in everything(open_source(str(tmp_path)))] == [False, True]


@pytest.mark.parametrize(
    "name", ["../secret.png", "/etc/passwd", "images/../../secret.png", "..", ".", "a\0b.png", "", 7, None]
)
def test_a_file_name_that_leads_out_of_the_folder_is_never_read(tmp_path, name):
    captioned.picture(1).save(tmp_path / "secret.png")
    (tmp_path / "data").mkdir()
    path = listing(tmp_path / "data", {"file_name": name, "text": "x"}, {"file_name": "a.png", "text": "y"})
    lost, good = everything(open_source(str(path)))
    assert lost.problem and lost.image == b"" and lost.key == "metadata.jsonl, row 1"
    assert good.image == path / "a.png"


def test_file_names_are_relative_to_the_metadata_in_its_sub_folder(tmp_path):
    for name in ("b", "a", ".hidden"):
        (tmp_path / name).mkdir()
        listing(
            tmp_path / name, {"file_name": "a.png", "text": name}, {"file_name": "../b/x/../a.png", "text": "there"}
        )
    assert keys(open_source(str(tmp_path))) == ["a/a.png", "b/a.png", "b/a.png", "b/a.png"]


def test_rows_of_the_same_file_are_an_example_each(tmp_path):
    path = listing(tmp_path, {"file_name": "a.png", "text": "one"}, {"file_name": "./a.png", "text": "two"})
    assert [(one.key, one.columns["text"]) for one in everything(open_source(str(path)))] == [
        ("a.png", "one"),
        ("a.png", "two"),
    ]


def test_names_in_any_script_are_found(tmp_path):
    name = "bücher/日本 語.png"
    (tmp_path / "bücher").mkdir()
    captioned.picture(3).save(tmp_path / name)
    (example,) = everything(open_source(str(listing(tmp_path, {"file_name": name, "text": "x"}))))
    assert example.key == name and decode(example.image).size == (64, 64)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"name": "a.png", "text": "x"}\n', "no column file_name; there are: name, text"),
        ("", "lists no images"),
        ("\n\n", "lists no images"),
        ("PK\x03\x04 no json at all\n" * 3, "no row that can be read"),
    ],
)
def test_metadata_that_names_no_file_is_an_error(tmp_path, text, message):
    (tmp_path / "metadata.jsonl").write_text(text)
    with pytest.raises(KoalaError, match=message):
        _ = open_source(str(tmp_path)).units


def test_two_metadata_files_in_one_folder_are_an_error(tmp_path):
    (tmp_path / "metadata.csv").write_text("file_name\na.png\n")
    with pytest.raises(KoalaError, match="has both"):
        open_source(str(listing(tmp_path, {"file_name": "a.png"})))


def test_a_gallery_is_a_source_whose_prompts_are_the_text(tmp_path):
    pixels = np.asarray(captioned.picture(0))
    with Gallery(tmp_path) as gallery:
        for seed in range(3):
            gallery.write(pixels, {**dict.fromkeys(SETTINGS), "prompt": "a red square", "seed": seed})
    (tmp_path / gallery.rows()[1]["file"]).unlink()
    source = open_source(str(tmp_path))
    examples = everything(source)
    assert [bool(one.problem) for one in examples] == [False, False, True]
    assert examples[0].columns["text"] == "a red square" and decode(examples[0].image).size == (64, 64)
    assert list(source.indexed()) == examples and isinstance(source, Source)


def test_reading_in_units_takes_no_more_memory_for_more_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(folders, "ROWS_PER_UNIT", 100)

    def peak(n):
        row = json.dumps({"file_name": "a.png", "text": "x" * 200}) + "\n"
        (tmp_path / "metadata.jsonl").write_text(row * n)
        source = Folder(tmp_path)
        tracemalloc.start()
        try:
            assert sum(1 for unit in range(len(source.units)) for _ in source.read(unit)) == n
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    few = peak(300)
    assert peak(1_200) < few + 50_000  # all rows together hold 280,000 characters


def test_no_file_stays_open(tmp_path):
    source = open_source(str(captioned.folder(tmp_path, 4, side=8)))
    before = len(list(Path("/proc/self/fd").iterdir()))
    _, indexed = everything(source), source.indexed()
    assert indexed[3].key
    assert len(list(Path("/proc/self/fd").iterdir())) == before


cells = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)


@given(st.lists(st.tuples(cells, cells), min_size=1, max_size=6), st.sampled_from(["\n", "\r\n"]))
def test_records_of_a_csv_are_those_of_the_csv_module_and_can_be_read_from_any_on(tmp_path_factory, rows, end):
    path = tmp_path_factory.mktemp("csv") / "metadata.csv"
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator=end, quoting=csv.QUOTE_ALL).writerows([("file_name", "text"), *rows])
    metadata = CommaSeparated(path)
    records = list(metadata.records())
    assert [tuple(cells) for _, cells in records] == rows
    for number, (offset, _) in enumerate(records):
        assert list(metadata.records(offset)) == records[number:]


@given(st.lists(st.one_of(st.just(""), st.dictionaries(cells, cells, min_size=1).map(json.dumps)), max_size=6))
def test_records_of_json_lines_can_be_read_from_any_on(tmp_path_factory, lines):
    path = tmp_path_factory.mktemp("jsonl") / "metadata.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8")
    metadata = JsonLines(path)
    records = list(metadata.records())
    assert [metadata.parse(record) for _, record in records] == [json.loads(line) for line in lines if line]
    for number, (offset, _) in enumerate(records):
        assert list(metadata.records(offset)) == records[number:]
