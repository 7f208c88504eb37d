"""Suites in their official formats, and what is said of files that are broken."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from suite_texts import write

from eval import suites
from eval.prompts import load as loading
from eval.prompts.entry import File
from eval.prompts.formats import read
from eval.suite import Prompt
from koala.errors import KoalaError

# ---- official formats


def test_partiprompts_is_a_table_with_tabs(tmp_path):
    path = write(
        tmp_path / "p.tsv",
        'Prompt\tCategory\tChallenge\tNote\na "quoted" cat\tAnimals\tBasic\t\n  two dogs \tAnimals\tQuantity\tx\n'
        '"OPEN" on a door\tArtifacts\tWriting & Symbols\t\n',
    )
    assert read(path, loading.entry("partiprompts").files[0]) == [
        Prompt('a "quoted" cat', {"category": "Animals", "challenge": "Basic"}),
        Prompt("two dogs", {"category": "Animals", "challenge": "Quantity"}),
        Prompt('"OPEN" on a door', {"category": "Artifacts", "challenge": "Writing & Symbols"}),
    ]


def test_drawbench_is_a_table_whose_first_column_counts_whatever_it_is_called(tmp_path):
    path = write(tmp_path / "d.csv", '"Prompts","Category",""\n"a red car, parked","Colors",""\n')
    file = loading.entry("drawbench").files[0]
    assert read(path, file) == [Prompt("a red car, parked", {"category": "Colors"})]


def test_geneval_tells_task_objects_and_attributes(tmp_path):
    rows = [
        {"tag": "single_object", "include": [{"class": "bench", "count": 1}], "prompt": "a photo of a bench"},
        {
            "tag": "counting",
            "include": [{"class": "clock", "count": 4}],
            "exclude": [{"class": "clock", "count": 5}],
            "prompt": "a photo of four clocks",
        },
        {
            "tag": "position",
            "include": [
                {"class": "dog", "count": 1},
                {"class": "tie", "count": 1, "color": "red", "position": ["left of", 0]},
            ],
            "prompt": "a photo of a red tie left of a dog",
        },
    ]
    path = write(tmp_path / "g.jsonl", "\n".join(map(json.dumps, rows)) + "\n")
    single, counting, position = read(path, loading.entry("geneval").files[0])
    assert single.tags == {"task": "single_object", "objects": "1", "attributes": "0"} and single.id == "00000"
    assert counting.expects == {name: rows[1][name] for name in ("tag", "include", "exclude")}
    assert counting.tags["objects"] == "4"
    assert position.tags == {"task": "position", "objects": "2", "attributes": "2"}


def test_hpsv2_names_images_by_style_and_place(tmp_path):
    path = write(tmp_path / "anime.json", json.dumps(["a girl with a kite", "a fox"]))
    file = next(file for file in loading.entry("hpsv2").files if file.path == "anime.json")
    assert [(p.id, p.tags) for p in read(path, file)] == [
        ("anime/00000", {"style": "anime"}),
        ("anime/00001", {"style": "anime"}),
    ]


def test_compbench_is_one_prompt_a_line_with_its_category(tmp_path):
    path = write(tmp_path / "color_val.txt", "a green bench and a blue bowl\na red bus and a white cat")
    file = loading.entry("t2i-compbench").files[0]
    assert [(p.text, p.tags["category"]) for p in read(path, file)] == [
        ("a green bench and a blue bowl", "color"),
        ("a red bus and a white cat", "color"),
    ]


def test_mlperf_names_images_by_their_id(tmp_path):
    path = write(tmp_path / "c.tsv", "id\timage_id\tcaption\theight\n49\t7\ta man rides a wave\t480\n")
    assert read(path, loading.entry("coco-mlperf-5k").files[0]) == [Prompt("a man rides a wave", id="49")]


CAPTION = st.text(st.sampled_from("ab \"'\t\n,é"), min_size=1).filter(str.strip)


@settings(max_examples=50, deadline=None)  # each writes a file
@given(st.lists(CAPTION, min_size=1, max_size=9))
def test_mlperfs_captions_are_those_that_its_code_reads(captions):
    """Its code writes the table with pandas, which quotes what needs it, and reads it with pandas."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "captions_source.tsv"
        table = pd.DataFrame({"id": range(len(captions)), "caption": [caption.strip() for caption in captions]})
        table.to_csv(path, sep="\t", index=False)
        found = read(path, loading.entry("coco-mlperf-5k").files[0])
        theirs = pd.read_csv(path, sep="\t", keep_default_na=False)
    assert [prompt.text for prompt in found] == theirs["caption"].tolist()
    assert [prompt.id for prompt in found] == theirs["id"].astype(str).tolist()


def test_bk_sdms_list_is_read_by_position(tmp_path):
    path = write(tmp_path / "metadata.csv", 'file_name,text\nCOCO_val2014_1.jpg,"a cat, asleep"\n')
    (prompt,) = read(path, loading.entry("coco-30k").files[0])
    assert (prompt.text, prompt.id) == ("a cat, asleep", "COCO_val2014_1.jpg")


@settings(max_examples=50, deadline=None)  # each writes a file
@given(st.lists(st.integers(1, 10**6), min_size=1, max_size=20, unique=True), st.randoms(), st.integers(1, 25))
def test_cocos_sample_hangs_on_ids_alone_and_takes_first_captions(ids, random, n):
    captions = [{"image_id": i, "id": 10 * i + k, "caption": f"{i} {k}"} for i in ids for k in (0, 1)]
    random.shuffle(captions)
    images = [{"id": i, "file_name": f"COCO_{i}.jpg"} for i in ids]
    with TemporaryDirectory() as folder:
        path = write(Path(folder) / "c.json", json.dumps({"annotations": captions, "images": images}))
        found = read(path, File("c.json", "coco-captions", sample=n))
        more = read(path, File("c.json", "coco-captions", sample=n + 1))
    assert len(found) == min(n, len(ids))
    assert all(prompt.text.endswith(" 0") and prompt.id == f"COCO_{prompt.text[:-2]}" for prompt in found)
    assert {prompt.id for prompt in found} <= {prompt.id for prompt in more}
    numbers = [int(prompt.text[:-2]) for prompt in found]
    assert numbers == sorted(numbers)


def test_dpg_bench_is_a_folder_with_a_file_a_prompt(tmp_path):
    for name in ("10", "2", "partiprompts7"):
        write(tmp_path / "prompts" / f"{name}.txt", f"prompt {name}\n")
    found = read(tmp_path / "prompts", loading.entry("dpg-bench").files[0])
    assert [(prompt.id, prompt.text) for prompt in found] == [
        ("2", "prompt 2"),
        ("10", "prompt 10"),
        ("partiprompts7", "prompt partiprompts7"),
    ]


# ---- bad files

BAD = [
    ("lines", "p.txt", "a cat\n\na dog\n", "line 2: the prompt is empty"),
    ("table", "p.csv", "prompt,x\n,1\n", "line 2: the prompt is empty"),
    ("table", "p.csv", "words,x\na,1\n", r"no column 'prompt'; its columns: words, x"),
    ("table", "p.csv", "prompt\na,b\n", "line 2: more cells"),
    ("json-list", "p.json", '["a", 3]', "item 1: the prompt is no text: 3"),
    ("json-list", "p.json", '{"a": 1}', "no JSON list"),
    ("json-list", "p.json", '["a', "not JSON"),
    ("json-list", "p.json", '["\\ud800"]', "half a character"),
    ("geneval", "p.jsonl", '{"prompt": "a"}', "line 1: no tag and include"),
    ("geneval", "p.jsonl", "[1]", "line 1: not a JSON object"),
    ("geneval", "p.jsonl", '{"prompt": "a", "tag": "t", "include": [1]}', "line 1: expects.include, item 0 is no obj"),
    ("coco-captions", "p.json", '{"annotations": [{"id": 1}]}', "no file of COCO's captions"),
    ("text-folder", "p.txt", "a", "should be a folder"),
    ("nonsense", "p.txt", "a", "unknown format of prompts 'nonsense'"),
]


@pytest.mark.parametrize(("format", "name", "text", "message"), BAD)
def test_a_broken_file_is_one_line_that_names_the_place(tmp_path, format, name, text, message):
    with pytest.raises(KoalaError, match=message):
        read(write(tmp_path / name, text), File(name, format))


@pytest.mark.parametrize(
    ("encoding", "message"),
    [("utf-16", "looks like UTF-16"), ("latin-1", r"is not UTF-8 \(byte 5\)"), ("utf-16-le", "null characters")],
)
def test_another_encoding_is_named(tmp_path, encoding, message):
    path = write(tmp_path / "p.txt", "a cafés\n" if encoding == "latin-1" else "a cat\n", encoding)
    with pytest.raises(KoalaError, match=message):
        suites.load(path)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lines_end_as_on_any_system(tmp_path, end):
    path = write(tmp_path / "p.txt", f"a cat{end}a dog{end}")
    assert [prompt.text for prompt in read(path, File("p.txt", "lines"))] == ["a cat", "a dog"]
    assert [prompt.text for prompt in suites.load(path).prompts] == ["a cat", "a dog"]


def test_a_byte_order_mark_is_no_part_of_a_prompt(tmp_path):
    assert suites.load(write(tmp_path / "p.txt", "a cat\n", "utf-8-sig")).prompts == (Prompt("a cat"),)
