"""A user's own prompts, in lines, tables and JSON."""

import json
import time

import pytest
from suite_texts import write

from eval import suites
from eval.suite import Prompt
from koala.errors import KoalaError


def test_own_prompts_come_from_lines_tables_and_json(tmp_path):
    texts = [Prompt("a cat", {"style": "ink"}), Prompt("a dog", {"style": "oil"})]
    files = {
        "a.csv": "prompt,style\na cat,ink\na dog,oil\n",
        "a.tsv": "style\tcaption\nink\ta cat\noil\ta dog\n",
        "a.jsonl": '{"text": "a cat", "style": "ink"}\n\n{"text": "a dog", "tags": {"style": "oil"}}\n',
    }
    for name, text in files.items():
        suite = suites.load(write(tmp_path / name, text))
        assert list(suite.prompts) == texts and suite.name == "a"
    assert [p.text for p in suites.load(write(tmp_path / "my prompts!.txt", "a cat\n\n a dog\n")).prompts] == [
        "a cat",
        "a dog",
    ]
    assert suites.load(tmp_path / "my prompts!.txt").name == "my-prompts"


@pytest.mark.parametrize(
    "text",
    ['Prompt ,"a,b"\n"a ""big"", old cat", ink\n', 'id,TEXT,"a,b"\n,"a ""big"", old cat",ink\n'],
)
def test_a_table_is_read_as_spreadsheets_write_it(tmp_path, text):
    (prompt,) = suites.load(write(tmp_path / "a.csv", text)).prompts
    assert prompt == Prompt('a "big", old cat', {"a,b": "ink"})


def test_own_json_may_say_what_to_expect(tmp_path):
    row = {"prompt": "a cat", "expects": {"include": [{"class": "cat", "count": 1}]}, "id": 7}
    (prompt,) = suites.load(write(tmp_path / "a.jsonl", json.dumps(row))).prompts
    assert prompt.expects == row["expects"] and prompt.tags == {"objects": "1", "attributes": "0"} and prompt.id == "7"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.txt", "\n \n", "holds no prompt"),
        ("a.csv", "words\na\n", "has no column prompt, text, caption; its columns: words"),
        ("a.jsonl", '{"a": 1}\n', "line 1: no prompt, text, caption; it has a"),
        ("a.jsonl", '{"prompt": 1}\n', "the prompt is no text"),
        ("a.jsonl", '{"prompt": "a", "tags": 1}\n', "line 1: tags is no object"),
        ("a.jsonl", '{"prompt": "a", "expects": 1}\n', "line 1: expects is no object"),
        ("a.jsonl", '{"prompt": "a", "expects": {"include": [2]}}\n', "line 1: expects.include, item 0 is no object"),
        ("a.csv", "", "its columns: none"),
        ("a.csv", "prompt\n", "holds no prompt"),
        ("a.csv", "prompt,style\na,ink\n,oil\n", "line 3: the prompt is empty"),
        ("a.csv", 'prompt\n"a cat\na dog\n', "line 3: unexpected end of data; a cell that begins with a quote"),
        ("a.tsv", 'prompt\n"OPEN" on a door\n', "line 2: .*; a cell that begins with a quote ends with one"),
        ("a.txt", "a \x1b[31mcat\n", "prompt 1: the prompt holds the control character"),
        ("a.docx", "a", "is no file of prompts; known: .txt"),
    ],
)
def test_own_prompts_that_cannot_be_read_say_why(tmp_path, name, text, message):
    with pytest.raises(KoalaError, match=message):
        suites.load(write(tmp_path / name, text))


def test_what_is_no_suite_lists_those_there_are(tmp_path):
    with pytest.raises(KoalaError, match=r"unknown suite 'genevall' \(did you mean 'geneval'\?\)"):
        suites.load("genevall")
    with pytest.raises(KoalaError, match=r"there is no file nowhere\.txt"):
        suites.load("nowhere.txt")
    with pytest.raises(KoalaError, match="is a folder"):
        suites.load(tmp_path)


def test_a_hundred_thousand_prompts_are_read_in_seconds(tmp_path):
    path = write(tmp_path / "many.txt", "".join(f"a photo of thing number {n}\n" for n in range(100_000)))
    started = time.perf_counter()
    suite = suites.load(path)
    assert len(suite.prompts) == 100_000 and suite.digest
    assert time.perf_counter() - started < 60  # 1 s where annotations are not checked and nothing else runs
