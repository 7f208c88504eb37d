"""What a suite's TOML file may say, and where official files are looked for."""

import hashlib

import pytest
from suite_texts import HEAD, nothing_here, toml, write  # noqa: F401
from weight_folders import serve

from eval import suites
from eval.prompts import load as loading
from eval.prompts.entry import read_entry
from eval.prompts.places import SUITES, fetch, find, stored
from koala.errors import KoalaError
from koala.harness.cli import stderr_console


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
        (HEAD.format(1) + '[[file]]\npath = "a"\nformat = "lines"\ntags = {a = 1}\n', "file 1: the tag a is no text"),
        (HEAD.format(1) + '[[file]]\npath = "a"\nformat = "table"\ntag_columns = [1]\n', "tag_columns holds 1"),
        (HEAD.format(1) + '[[file]]\npath = "a"\nformat = "table"\nquoted = 1\n', "quoted is 1"),
        (HEAD.format(1) + '[[file]]\npath = "../a"\nformat = "lines"\n', "path is '../a'"),
        (HEAD.format(1) + '[[file]]\npath = "/a"\nformat = "lines"\n', "path is '/a'"),
        (HEAD.format(1) + '[[file]]\npath = "a"\nformat = "lines"\nsha256 = "AB"\n', "64 hexadecimal digits"),
        (HEAD.format(1) + '[[prompt]]\ntext = "a \\u001b[31m"\n', "prompt 1: the prompt holds the control character"),
        ("title = ", "is no TOML"),
    ],
)
def test_a_mistake_in_a_toml_file_names_file_and_key(tmp_path, text, message):
    with pytest.raises(KoalaError, match=message) as error:
        suites.load(toml(tmp_path, text))
    assert "mine" in str(error.value) or "T " in str(error.value)


EXPECTS = [
    ("colour = []", "prompt 1: expects has the unknown key 'colour'; known: tag, include, exclude, text"),
    ('include = "cat"', "expects.include is 'cat', which is of another type"),
    ("include = [{count = 1}]", "expects.include, item 0 is no object with a class"),
    ('include = [{class = "cat", colour = "red"}]', "item 0 has the unknown key 'colour'; known: class, count, color"),
    ('include = [{class = "cat", count = "1"}]', "item 0: count is '1', which is of another type"),
    ('include = [{class = "cat", count = 0}]', "item 0 has no count of 1 or more"),
    ('exclude = [{class = "cat"}]', "expects.exclude, item 0 has no count of 1 or more"),
    ('include = [{class = "cat", position = ["above", 0]}]', "item 0: position is .*the place of an earlier item"),
    ('include = [{class = "cat"}, {class = "dog", position = ["over", 0]}]', "item 1: position is .*one of left of"),
]


@pytest.mark.parametrize(("expects", "message"), EXPECTS)
def test_what_no_metric_could_check_is_said_before_an_image_is_drawn(tmp_path, expects, message):
    with pytest.raises(KoalaError, match=message):
        suites.load(toml(tmp_path, HEAD.format(1) + f'[[prompt]]\ntext = "a"\nexpects = {{{expects}}}\n'))


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


def test_the_files_of_a_users_own_suite_may_lie_beside_it(tmp_path):
    path = toml(tmp_path, HEAD.format(2) + '[[file]]\npath = "deep/p.txt"\nformat = "lines"\ntags = {kind = "x"}\n')
    write(tmp_path / "deep" / "p.txt", TEXT)
    assert [(prompt.text, prompt.tags) for prompt in suites.load(path).prompts] == [
        ("a cat", {"kind": "x"}),
        ("a dog", {"kind": "x"}),
    ]


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
