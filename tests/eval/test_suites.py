"""Suites in their official formats, and what is said of files that are missing, wrong or broken."""

import hashlib
import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from weight_folders import serve

from eval import suites
from eval.prompts import load as loading
from eval.prompts.entry import File, read_entry
from eval.prompts.formats import read
from eval.prompts.places import SUITES, fetch, find, stored
from eval.suite import Prompt, Suite
from koala.errors import KoalaError
from koala.harness.cli import Command, main, stderr_console

COMMANDS = {"suites": Command("eval.commands.suites", "list")}


@pytest.fixture(autouse=True)
def nothing_here(tmp_path, monkeypatch):
    """A machine without any suite's files."""
    monkeypatch.delenv(SUITES, raising=False)
    monkeypatch.setenv("KOALA_CACHE", str(tmp_path / "cache"))


def write(path, text, encoding="utf-8"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode(encoding))
    return path


def toml(tmp_path, text, name="mine"):
    return write(tmp_path / f"{name}.toml", text)


HEAD = 'title = "T"\nsource = "S"\nlicense = "MIT"\nprompts = {}\n'

# ---- the registry


@pytest.mark.parametrize("name", suites.names())
def test_every_suite_says_what_it_is_and_its_counts_add_up(name):
    entry = loading.entry(name)
    assert entry.title and entry.license and entry.source and entry.count
    counts = [file.prompts for file in entry.files]
    assert not counts or None in counts or sum(counts) == entry.count
    for file in entry.files:
        assert file.sha256 is None or len(bytes.fromhex(file.sha256)) == 32
    if entry.inline:
        assert len(suites.load(name).prompts) == entry.count


PUBLISHED = {  # as the papers and repositories count them
    "partiprompts": 1632,
    "drawbench": 200,
    "hpsv2": 4 * 800,
    "geneval": 553,
    "t2i-compbench": 6 * 300,
    "t2i-compbench-plus": 8 * 300,
    "coco-30k": 30_000,
    "coco-10k": 10_000,
    "coco-mlperf-5k": 5_000,
    "dpg-bench": 1065,
}


@pytest.mark.parametrize(("name", "count"), PUBLISHED.items())
def test_published_suites_have_their_published_counts(name, count):
    assert loading.entry(name).count == count


# ---- official formats


def test_partiprompts_is_a_table_with_tabs(tmp_path):
    path = write(
        tmp_path / "p.tsv",
        'Prompt\tCategory\tChallenge\tNote\na "quoted" cat\tAnimals\tBasic\t\n  two dogs \tAnimals\tQuantity\tx\n',
    )
    file = File("p.tsv", "table", prompt_column="Prompt", tag_columns=("Category", "Challenge"))
    assert read(path, file) == [
        Prompt('a "quoted" cat', {"category": "Animals", "challenge": "Basic"}),
        Prompt("two dogs", {"category": "Animals", "challenge": "Quantity"}),
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


def test_bk_sdms_list_is_read_by_position(tmp_path):
    path = write(tmp_path / "metadata.csv", 'file_name,text\nCOCO_val2014_1.jpg,"a cat, asleep"\n')
    (prompt,) = read(path, loading.entry("coco-30k").files[0])
    assert (prompt.text, prompt.id) == ("a cat, asleep", "COCO_val2014_1.jpg")


@given(st.lists(st.integers(1, 10**6), min_size=1, max_size=20, unique=True), st.randoms(), st.integers(1, 25))
def test_cocos_sample_hangs_on_ids_alone_and_takes_first_captions(ids, random, n):
    captions = [{"image_id": i, "id": 10 * i + k, "caption": f"{i} {k}"} for i in ids for k in (0, 1)]
    random.shuffle(captions)
    images = [{"id": i, "file_name": f"COCO_{i}.jpg"} for i in ids]
    with_file = Path(f"/tmp/coco-{hashlib.sha256(repr(captions).encode()).hexdigest()[:16]}.json")
    write(with_file, json.dumps({"annotations": captions, "images": images}))
    try:
        found = read(with_file, File("c.json", "coco-captions", sample=n))
        more = read(with_file, File("c.json", "coco-captions", sample=n + 1))
    finally:
        with_file.unlink()
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


def test_a_byte_order_mark_is_no_part_of_a_prompt(tmp_path):
    assert suites.load(write(tmp_path / "p.txt", "a cat\n", "utf-8-sig")).prompts == (Prompt("a cat"),)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HEAD.format(1) + 'extra = 1\n[[prompt]]\ntext = "a"\n', "unknown key 'extra'; known: title"),
        (HEAD.format(1) + '[[prompt]]\ntext = "a"\ncolour = "b"\n', "prompt 1: unknown key 'colour'; known: text"),
        (HEAD.format(1) + '[[file]]\npath = "a"\nformat = "lines"\nsha = "b"\n', "file 1: unknown key 'sha'"),
        (HEAD.format(1), "a suite has its prompts in"),
        (HEAD.format('"1"') + '[[prompt]]\ntext = "a"\n', "prompts is '1'"),
        (HEAD.format(1) + '[[prompt]]\ntags = {a = "b"}\n', "'text' is missing"),
        (HEAD.format(1) + '[[prompt]]\ntext = "a"\ntags = {a = 1}\n', "the tag a is no text"),
        (HEAD.format(1) + '[[prompt]]\ntext = "  "\n', "the prompt is empty"),
        (HEAD.format(2) + '[[prompt]]\ntext = "a"\n', "holds 1 prompts, and should hold 2"),
        (HEAD.format(1) + '[[file]]\npath = "a"\nrole = "x"\n', "role is 'x'"),
        (HEAD.format(1) + '[[file]]\npath = "a"\n', "has a format"),
        ("title = ", "is no TOML"),
    ],
)
def test_a_mistake_in_a_toml_file_names_file_and_key(tmp_path, text, message):
    with pytest.raises(KoalaError, match=message) as error:
        suites.load(toml(tmp_path, text))
    assert "mine" in str(error.value) or "T " in str(error.value)


# ---- where official files are

TEXT = "a cat\na dog\n"
DIGEST = hashlib.sha256(TEXT.encode()).hexdigest()


def entry_of(tmp_path, sha256=DIGEST, url="", prompts=2):
    more = f'url = "{url}"\n' if url else ""
    file = f'[[file]]\npath = "deep/p.txt"\nformat = "lines"\n{more}'
    return read_entry(toml(tmp_path, HEAD.format(prompts) + file + (f'sha256 = "{sha256}"\n' if sha256 else "")))


@pytest.mark.parametrize("place", ["mine/deep/p.txt", "mine/p.txt", "deep/p.txt"])
def test_a_users_folder_of_suites_is_looked_through(tmp_path, monkeypatch, place):
    monkeypatch.setenv(SUITES, str(tmp_path / "suites"))
    path = write(tmp_path / "suites" / place, TEXT)
    entry = entry_of(tmp_path)
    assert find(entry, entry.files[0]).path == path and find(entry, entry.files[0]).verified
    assert [prompt.text for prompt in loading.of_entry(entry).prompts] == ["a cat", "a dog"]


def test_a_missing_file_says_where_it_goes(tmp_path):
    with pytest.raises(KoalaError) as error:
        loading.of_entry(entry_of(tmp_path, url="https://example.org/p.txt"))
    message = str(error.value)
    assert "deep/p.txt of T is not on this machine" in message and DIGEST in message
    assert "KOALA_SUITES=DIR: DIR/mine/deep/p.txt" in message and "suites mine --fetch" in message
    assert str(tmp_path / "cache" / "suites" / "mine" / "deep" / "p.txt") in message


def test_a_file_with_another_hash_is_refused_with_both(tmp_path):
    entry = entry_of(tmp_path)
    write(stored(entry, entry.files[0]), TEXT + "a fox\n")
    with pytest.raises(KoalaError, match=f"is not the file of T: its sha256 is .*should be {DIGEST}"):
        loading.of_entry(entry)


def test_a_file_whose_hash_nobody_knows_is_taken_and_called_unverified_but_counted(tmp_path):
    entry = entry_of(tmp_path, sha256=None, prompts=3)
    write(stored(entry, entry.files[0]), TEXT)
    assert not find(entry, entry.files[0]).verified
    with pytest.raises(KoalaError, match="holds 2 prompts, and should hold 3"):
        loading.of_entry(entry)


def test_a_fetched_file_is_checked_before_it_takes_its_place(tmp_path):
    with serve(b"another", 7) as address:
        bad = entry_of(tmp_path, url=address)
        with pytest.raises(KoalaError, match="what came has sha256"):
            fetch(bad, bad.files[0], stderr_console())
        assert not stored(bad, bad.files[0]).exists()
    with serve(TEXT.encode(), len(TEXT)) as address:
        good = entry_of(tmp_path, url=address)
        assert fetch(good, good.files[0], stderr_console()).read_text() == TEXT
        assert find(good, good.files[0]).verified


# ---- a user's own prompts


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
        ("a.jsonl", '{"prompt": "a", "expects": 1}\n', "tags and expects are objects"),
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
    assert time.perf_counter() - started < 10  # 1 s alone on a machine


# ---- parts of a suite


@given(total=st.integers(1, 200), n=st.integers(1, 250))
def test_a_limited_suite_is_spread_evenly_and_keeps_the_order(total, n):
    suite = Suite("s", "s", None, None, tuple(Prompt(str(i)) for i in range(total)))
    places = [int(prompt.text) for prompt in suites.limited(suite, n).prompts]
    assert len(places) == min(n, total) and places == sorted(set(places)) and places[0] == 0
    gaps = [b - a for a, b in zip(places, [*places[1:], total], strict=True)]
    assert max(gaps) - min(gaps) <= 1


def test_a_limit_below_one_is_an_error():
    with pytest.raises(KoalaError, match="--limit must be at least 1"):
        suites.limited(suites.load("koala-smoke"), 0)


def test_another_tag_makes_another_digest():
    suite = suites.load("koala-smoke")
    first, *rest = suite.prompts
    changed = replace(suite, prompts=(replace(first, tags={**first.tags, "category": "x"}), *rest))
    assert changed.digest != suite.digest == suites.load("koala-smoke").digest


# ---- the command


def run(capsys, *arguments):
    code = main("eval", "", COMMANDS, (), ["suites", *arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_the_list_names_every_suite_and_what_is_here(capsys):
    code, out, _ = run(capsys)
    assert code == 0
    for name in suites.names():
        (line,) = [line for line in out.splitlines() if line.startswith(f"| {name} ")]
        assert ("inline" if name.startswith("koala-") else "missing") in line


def test_json_tells_each_files_state_and_address(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv(SUITES, str(tmp_path))
    write(tmp_path / "geneval" / "evaluation_metadata.jsonl", "{}")
    write(tmp_path / "drawbench" / "drawbench.csv", "Prompts,Category\n")
    code, out, _ = run(capsys, "geneval", "drawbench", "coco-mlperf-5k", "--json")
    states = {line["name"]: line["status"] for line in json.loads(out)}
    assert code == 0 and states == {"geneval": "another file", "drawbench": "unverified", "coco-mlperf-5k": "missing"}


def test_what_cannot_be_fetched_is_said_and_exits_with_2(capsys, monkeypatch):
    entry = loading.entry("geneval")
    gone = replace(entry, files=(replace(entry.files[0], url="http://127.0.0.1:9/x"),))
    monkeypatch.setattr(loading, "entry", lambda name: gone)
    code, out, err = run(capsys, "geneval", "--fetch")
    assert code == 2 and "not fetched: http://127.0.0.1:9/x" in err and "| geneval " in out


def test_an_unknown_suite_is_an_error(capsys):
    code, _, err = run(capsys, "nosuch")
    assert code == 2 and err.startswith("error: unknown suite 'nosuch'")


def test_listing_needs_no_torch():
    check = "import sys; from eval import suites; suites.load('koala-core'); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0
