import json
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stores import append, numbers, row

from koala.errors import KoalaError
from koala.harness import records
from koala.harness.records import SCHEMA, Store, read

ROOT = Path(__file__).parents[2]

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3)
)
FIELDS = st.dictionaries(st.text().filter(lambda key: key != "schema"), VALUES, max_size=5)
ROWS = st.builds(lambda fields, kind: fields | {"kind": kind}, FIELDS, st.text().filter(lambda k: k != "environment"))


# ---- reading back what was written


@settings(deadline=None, max_examples=60)
@given(st.lists(ROWS, max_size=5))
def test_rows_are_read_back_as_they_were_appended(rows):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.jsonl"
        append(path, *rows)
        found = read([path])
    assert found.rows == rows
    assert found.environments == {}
    assert found.problems == []


def test_a_row_finds_the_environment_that_it_names(path):
    here = {"kind": "environment", "id": "e1", "device_name": "cpu"}
    append(path, here, row(1) | {"environment": "e1"}, row(2) | {"environment": "gone"}, row(3))
    found = read([path])
    assert found.environments == {"e1": here}
    assert [found.environment(each) for each in found.rows] == [here, {}, {}]


def test_rows_of_several_files_follow_each_other_in_the_order_of_the_files(tmp_path):
    append(tmp_path / "a.jsonl", row(1), row(2))
    append(tmp_path / "b.jsonl", row(3))
    assert numbers(read([tmp_path / "b.jsonl", str(tmp_path / "a.jsonl")])) == [3, 1, 2]


def test_opening_a_store_again_keeps_its_rows_and_makes_missing_folders(tmp_path):
    path = tmp_path / "new" / "folder" / "rows.jsonl"
    append(path, row(1))
    append(path, row(2))
    assert numbers(read([path])) == [1, 2]


def test_a_store_without_rows_and_blank_lines_are_no_problem(path):
    append(path)
    assert read([path]) == records.Records()
    path.write_text('\n  \n{"kind": "bench", "n": 1}\n\n')
    assert read([path]) == records.Records(rows=[row(1)])


def test_the_latest_row_of_a_key_wins_at_the_place_of_the_first(tmp_path):
    rows = [{"kind": "bench", "case": case, "n": n} for n, case in enumerate("abac")]
    append(tmp_path / "1.jsonl", *rows)
    append(tmp_path / "2.jsonl", {"kind": "bench", "case": "b", "n": 9})
    latest = read([tmp_path / "1.jsonl", tmp_path / "2.jsonl"]).latest(lambda each: each["case"])
    assert [(key, each["n"]) for key, each in latest.items()] == [("a", 2), ("b", 9), ("c", 3)]


def test_a_row_is_on_disk_when_append_returns(path, monkeypatch):
    synced, fsync = [], os.fsync

    def note(file):
        fsync(file)
        synced.append(os.fstat(file).st_size)

    with Store(path) as store:
        monkeypatch.setattr(os, "fsync", note)
        for n in range(3):
            store.append(row(n))
            assert synced == [(i + 1) * len('{"kind": "bench", "n": 0}\n') for i in range(n + 1)]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_number_that_json_has_not_is_refused_and_nothing_is_written(path, value):
    with Store(path) as store:
        with pytest.raises(ValueError, match="JSON"):
            store.append(row(1) | {"nested": [{"latency_s": value}]})
        store.append(row(2))
    assert read([path]) == records.Records(rows=[row(2)])


# ---- torn lines


def test_a_torn_last_line_is_reported_with_file_and_line_and_skipped(path):
    path.write_text('{"kind": "bench", "n": 1}\n{"kind": "bench", "n": 2}\n{"kind": "ben')
    found = read([path])
    assert numbers(found) == [1, 2]
    assert found.problems == [f"{path}, line 3: not a whole row, skipped"]


@pytest.mark.parametrize("torn", [b'{"kind": "be', b"\0" * 4096, b"[1, 2]", b'"kind"', b'{"n": 1}', b'{"kind": 1}'])
def test_a_line_that_is_no_row_costs_itself_alone(path, torn):
    path.write_bytes(b'{"kind": "bench", "n": 1}\n' + torn + b'\n{"kind": "bench", "n": 3}\n')
    found = read([path])
    assert numbers(found) == [1, 3]
    assert found.problems == [f"{path}, line 2: not a whole row, skipped"]


def test_wherever_a_file_is_cut_its_whole_rows_and_all_later_ones_are_read(path):
    whole = b"".join(json.dumps(row(n)).encode() + b"\n" for n in (1, 2))
    ends = [whole.index(b"\n"), len(whole) - 1]
    for cut in range(len(whole) + 1):
        path.write_bytes(whole[:cut])
        append(path, row(3))
        found = read([path])
        assert numbers(found) == [n for n, end in zip((1, 2), ends, strict=True) if cut >= end] + [3]
        torn = cut not in (0, ends[0], ends[0] + 1, ends[1], ends[1] + 1)
        line = whole[:cut].count(b"\n") + 1
        assert found.problems == ([f"{path}, line {line}: not a whole row, skipped"] if torn else [])
        assert path.read_bytes().startswith(whole[:cut])


# ---- what is no store


@pytest.mark.parametrize(
    "content",
    [
        b"model,latency_s\nsdxl,1.0\n",
        b"hello",
        b"{}\n",
        b"[]\n",
        b'{"n": 1}\n{"n": 2}\n',
        b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
        b"\xff\xfe{\0}\0",
        bytes(range(256)) * 16,
        b"[" * 100_000,
    ],
    ids=["csv", "words", "no kind", "list", "rows without kind", "png", "utf-16", "all bytes", "deeply nested"],
)
def test_a_file_that_is_no_store_is_an_error_that_names_it(path, content):
    path.write_bytes(content)
    with pytest.raises(KoalaError, match=r"rows\.jsonl holds no rows"):
        read([path])


@given(st.binary())
def test_whatever_bytes_a_file_holds_the_answer_is_rows_or_a_koala_error(content):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.jsonl"
        path.write_bytes(content)
        try:
            found = read([path])
        except KoalaError as error:
            assert str(path) in str(error)
        else:
            assert not found.problems or found.rows or found.environments or content.startswith(b'{"')


@pytest.mark.parametrize("where", ["missing.jsonl", ".", "rows.jsonl/inside.jsonl"])
def test_a_path_that_cannot_be_read_is_an_error_that_names_it(tmp_path, path, where):
    append(path, row(1))
    with pytest.raises(KoalaError, match="cannot read") as caught:
        read([tmp_path / where])
    assert str(tmp_path / where) in str(caught.value)


@pytest.mark.parametrize("where", [".", "rows.jsonl/inside.jsonl"])
def test_a_path_that_cannot_be_written_is_an_error_that_names_it(tmp_path, path, where):
    append(path, row(1))
    with pytest.raises(KoalaError, match="cannot write") as caught:
        Store(tmp_path / where)
    assert str(tmp_path / where) in str(caught.value)


def test_a_row_of_a_newer_schema_is_an_error_that_says_to_upgrade(path):
    append(path, row(1), row(2) | {"schema": SCHEMA + 1})
    with pytest.raises(KoalaError, match=rf"line 2: schema {SCHEMA + 1} is newer.*upgrade koala-bench"):
        read([path])


@pytest.mark.parametrize("schema", [0, -1, "1", None, 1.5])
def test_a_schema_that_no_version_wrote_is_an_error_that_names_the_line(path, schema):
    append(path, row(1) | {"schema": schema})
    with pytest.raises(KoalaError, match=r"rows\.jsonl, line 1: schema"):
        read([path])


def test_a_row_of_an_older_schema_is_read_as_one_of_today(path, monkeypatch):
    monkeypatch.setattr(records, "SCHEMA", 3)
    monkeypatch.setitem(records.UPGRADERS, 1, lambda old: old | {"n": old["n"] * 10})
    monkeypatch.setitem(records.UPGRADERS, 2, lambda old: old | {"n": old["n"] + 1})
    append(path, *(row(n) | {"schema": n} for n in (1, 2, 3)))
    assert numbers(read([path])) == [11, 3, 3]


@pytest.mark.parametrize(("target", "profile"), [("unet", "eager"), ("pipeline", "diffusers-eager")])
def test_a_bench_row_of_the_first_schema_ran_under_the_only_profile_there_was(path, target, profile):
    append(path, {"kind": "bench", "schema": 1, "case": {"model": "sdxl", "target": target}})
    (found,) = read([path]).rows
    assert found == {"kind": "bench", "schema": 2, "case": {"model": "sdxl", "target": target, "profile": profile}}
    append(path, found)
    assert read([path]).rows == [found, found]


@pytest.mark.parametrize("old", [{"kind": "eval", "case": {"target": "pipeline"}}, {"kind": "bench", "case": None}])
def test_rows_without_a_bench_case_pass_through_the_first_upgrade(path, old):
    append(path, old | {"schema": 1})
    assert read([path]).rows == [old | {"schema": 2}]


@pytest.mark.parametrize("value", [2**70, "\ud800", 1e400, -0.0, "é\u2028", 10**-300, [[[]]] * 3])
def test_whatever_python_writes_as_json_is_read_back(path, value):
    path.write_text(json.dumps({"kind": "bench", "value": value}) + "\n")
    (row,) = records.read([path]).rows
    assert row["value"] == value
