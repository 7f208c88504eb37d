import csv
import json
import os
from pathlib import Path

import pytest
from bad_images import PIXELS, good
from hypothesis import given
from hypothesis import strategies as st

from eval.sources import Item, read_sets
from koala.errors import KoalaError
from koala.sampling.gallery import MANIFEST, SETTINGS, Gallery

PROMPTS = ("a cat", 'she said "no", twice', "line\none\u2028two\x85", "一只猫 🐱", "word " * 500, "")


def row(prompt="a cat", seed=1, **changes):
    return {
        "prompt": prompt,
        "seed": seed,
        "model": "koala-700m",
        "weights": "random",
        "recipe": {"scheduler": "euler", "steps": 25, "timesteps": [999, 1]},
        "profile": "eager",
        "height": 6,
        "width": 9,
        **changes,
    }


def gallery(folder: Path, *rows) -> Path:
    with Gallery(folder) as target:
        for each in rows:
            target.write(PIXELS, each)
    return folder


def table(folder: Path, *rows, name="metadata.jsonl") -> Path:
    folder.mkdir(exist_ok=True)
    with open(folder / name, "w", newline="", encoding="utf-8") as file:
        if name.endswith(".csv"):
            writer = csv.DictWriter(file, dict.fromkeys(key for each in rows for key in each))
            writer.writeheader()
            writer.writerows(rows)
        else:
            file.writelines(json.dumps(each, ensure_ascii=False) + "\n" for each in rows)
    return folder


def only(folder: Path):
    (found,) = read_sets(folder)
    return found


def files(folder: Path) -> list[str]:
    return [item.file for item in only(folder).items]


# ---- galleries


def test_a_gallery_of_one_run_is_one_set_with_prompts_seeds_and_settings(tmp_path):
    found = only(gallery(tmp_path / "g", *(row(prompt, seed) for prompt in PROMPTS for seed in (1, 2))))
    assert [(item.prompt, item.seed) for item in found.items] == [
        (prompt, seed) for prompt in PROMPTS for seed in (1, 2)
    ]
    assert all(item.path.is_file() and item.path == tmp_path / "g" / item.file for item in found.items)
    assert (found.name, found.path, found.problems) == ("koala-700m", tmp_path / "g", ())
    assert set(found.settings) == set(SETTINGS) - {"start_latents"} and found.settings["recipe"]["steps"] == 25


def test_several_settings_in_one_folder_are_several_sets_named_by_what_differs(tmp_path):
    recipe = row()["recipe"]
    changes = (
        {},
        {"model": "sdxl"},
        {"profile": "compiled", "recipe": recipe | {"steps": 10}},
        {"weights_hash": "0123456789abcdef"},
    )
    sets = read_sets(gallery(tmp_path, *(row(seed=seed, **change) for seed, change in enumerate(changes))))
    assert [each.name for each in sets] == [
        "koala-700m steps=25 eager",
        "sdxl steps=25 eager",
        "koala-700m steps=10 compiled",
        "koala-700m weights_hash=01234567 steps=25 eager",
    ]
    assert [[item.seed for item in each.items] for each in sets] == [[0], [1], [2], [3]]
    assert len({each.id for each in sets}) == 4


def test_a_set_is_the_same_whichever_way_its_folder_is_named_and_however_many_images_it_has(tmp_path, monkeypatch):
    first = only(gallery(tmp_path / "g", row(seed=1))).id
    monkeypatch.chdir(tmp_path)
    assert only(gallery(Path("g"), row(seed=2))).id == first
    assert only(gallery(tmp_path / "other", row(seed=1))).id != first


def test_tags_of_manifest_rows_are_kept_as_texts(tmp_path):
    tagged = row(tags={"Category": "Animals", "words": 3, "none": None})
    assert only(gallery(tmp_path, tagged, row(seed=2))).items[0].tags == {"Category": "Animals", "words": "3"}


def test_manifest_rows_of_missing_images_and_torn_lines_are_listed(tmp_path):
    gallery(tmp_path, row(seed=1), row(seed=2))
    (tmp_path / "0002-a-cat.png").unlink()
    with open(tmp_path / MANIFEST, "a") as file:
        file.write('{"kind": "im')
    found = only(tmp_path)
    assert [item.seed for item in found.items] == [1]
    assert found.problems[0] == "0002-a-cat.png: the manifest names it and it is not there"
    assert "line 3: not a whole row" in found.problems[1]


@pytest.mark.parametrize("name", ("../out.png", "/etc/passwd", "a\\..\\..\\out.png"))
def test_a_manifest_that_names_a_file_outside_its_folder_is_an_error(tmp_path, name):
    good(tmp_path, "out.png")
    gallery(tmp_path / "g", row())
    with open(tmp_path / "g" / MANIFEST, "a") as file:
        file.write(json.dumps({"schema": 1, "kind": "image", "file": name, "prompt": ""}) + "\n")
    with pytest.raises(KoalaError, match="names a file outside that folder"):
        read_sets(tmp_path / "g")


def test_a_gallery_whose_images_are_gone_is_an_error(tmp_path):
    gallery(tmp_path, row())
    (tmp_path / "0001-a-cat.png").unlink()
    with pytest.raises(KoalaError, match=r"has a manifest and no image: 0001-a-cat\.png"):
        read_sets(tmp_path)


def test_galleries_are_not_mixed_into_one_set(tmp_path):
    gallery(tmp_path / "a", row())
    gallery(tmp_path / "b", row())
    with pytest.raises(KoalaError, match=r"holds galleries, .* name the gallery to score"):
        read_sets(tmp_path)


# ---- plain folders


def test_a_plain_folder_is_one_set_of_all_images_below_it_in_order(tmp_path):
    for name in ("b.png", "a.PNG", "x/c.jpg", "x/y/d.webp", ".hidden.png", ".cache/e.png", "__MACOSX/f.png", "._g.png"):
        good((tmp_path / "pics" / name).parent, Path(name).name)
    found = only(tmp_path / "pics")
    assert [item.file for item in found.items] == ["a.PNG", "b.png", "x/c.jpg", "x/y/d.webp"]
    assert found.items[2] == Item(tmp_path / "pics" / "x" / "c.jpg", "x/c.jpg")
    assert (found.name, found.settings, found.problems) == ("pics", {}, ())


def test_other_files_are_counted(tmp_path):
    good(tmp_path)
    for name in ("a.txt", "b.txt", "c.json", "README"):
        (tmp_path / name).touch()
    assert only(tmp_path).problems == ("4 other files (2 .txt, 1 no suffix, 1 .json)",)


def test_links_inside_the_folder_are_followed_and_those_out_of_it_are_listed(tmp_path):
    good(tmp_path / "elsewhere", "secret.png")
    root = tmp_path / "root"
    good(root / "sub", "a.png")
    (root / "inside.png").symlink_to(root / "sub" / "a.png")
    (root / "out.png").symlink_to(tmp_path / "elsewhere" / "secret.png")
    (root / "folder").symlink_to(tmp_path / "elsewhere")
    found = only(root)
    assert [item.file for item in found.items] == ["inside.png", "sub/a.png"]
    assert len(found.problems) == 2
    assert "folder: a link to a folder is not followed" in found.problems
    assert "out.png: a link that leads out of the folder; put the file itself there" in found.problems
    (tmp_path / "name").symlink_to(root)
    assert files(tmp_path / "name") == ["inside.png", "sub/a.png"]


def test_file_names_that_are_no_text_are_listed(tmp_path):
    good(tmp_path)
    try:
        Path(os.fsdecode(bytes(tmp_path) + b"/\xff.png")).touch()
    except OSError:
        pytest.skip("this file system has no such names")
    assert only(tmp_path).problems == (r"'\udcff.png': its name is not UTF-8; rename it",)


def test_what_is_no_folder_of_images_is_one_clear_error(tmp_path):
    for path, match in (
        (tmp_path / "nowhere", "does not exist"),
        (good(tmp_path / "pics"), "is a file; give a gallery or a folder"),
    ):
        with pytest.raises(KoalaError, match=match):
            read_sets(path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(KoalaError, match=r"holds no images \(\.bmp, "):
        read_sets(tmp_path / "empty")
    (tmp_path / "empty" / "a.txt").touch()
    with pytest.raises(KoalaError, match=r"holds no images .*; found 1 other files \(1 \.txt\)"):
        read_sets(tmp_path / "empty")


# ---- tables of prompts


@pytest.mark.parametrize("name", ("metadata.jsonl", "metadata.csv"))
@pytest.mark.parametrize("column", ("prompt", "text", "caption"))
def test_a_table_gives_prompts_seeds_and_tags(tmp_path, name, column):
    good(tmp_path / "x", "a.png")
    table(tmp_path, {"file_name": "./x/a.png", column: "a cat", "seed": 3, "Category": "Animals"}, name=name)
    (item,) = only(tmp_path).items
    assert item == Item(tmp_path / "x/a.png", "x/a.png", "a cat", 3, {"Category": "Animals"})


@pytest.mark.parametrize("name", ("metadata.jsonl", "metadata.csv"))
@given(prompts=st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), min_size=1, max_size=4))
def test_prompts_come_back_whatever_they_hold(tmp_path_factory, name, prompts):
    folder = tmp_path_factory.mktemp("t")
    rows = [{"file_name": f"{i}.png", "prompt": prompt} for i, prompt in enumerate(prompts)]
    for each in rows:
        (folder / each["file_name"]).touch()
    table(folder, *rows, name=name)
    assert [item.prompt for item in only(folder).items] == prompts


@pytest.mark.parametrize("name", ("metadata.jsonl", "metadata.csv"))
def test_awkward_prompts_come_back(tmp_path, name):
    for i in range(len(PROMPTS)):
        good(tmp_path, f"{i}.png")
    table(tmp_path, *({"file_name": f"{i}.png", "text": text} for i, text in enumerate(PROMPTS)), name=name)
    empty = None if name.endswith(".csv") else ""  # an empty cell of a CSV says nothing
    assert tuple(item.prompt for item in only(tmp_path).items) == tuple(text or empty for text in PROMPTS)


def test_other_columns_are_tags_as_texts(tmp_path):
    good(tmp_path)
    table(
        tmp_path, {"file_name": "good.png", "prompt": "p", "text": "t", "n": 2, "boxes": [1], "none": None, "seed": "x"}
    )
    assert only(tmp_path).items[0].tags == {"text": "t", "n": "2", "boxes": "[1]", "seed": "x"}


def test_rows_without_image_and_images_without_row_are_listed(tmp_path):
    good(tmp_path, "a.png")
    good(tmp_path, "b.png")
    table(tmp_path, {"file_name": "a.png", "text": "a"}, {"file_name": "gone.png", "text": "g"})
    found = only(tmp_path)
    assert [item.prompt for item in found.items] == ["a", None]
    assert found.problems == (
        "gone.png: the table of prompts names it and it is not among the images",
        "1 images have no row in the table of prompts: b.png",
    )


@pytest.mark.parametrize(
    "text, match",
    [
        ('{"file_name": "../a.png"}', r"line 1 names a file outside its folder: '\.\./a\.png'"),
        ('{"file_name": "/a.png"}', "outside its folder"),
        ('{"file_name": "C:\\\\a.png"}', "outside its folder"),
        ('{"text": "a"}', "line 1: no file_name"),
        ('{"file_name": "a.png", "text": ["a", "b"]}', r'line 1: text is no text: \["a", "b"\]'),
        ('{"file_name": "a.png"}\n{"file_na', "line 2: not JSON"),
        ("[1]", "line 1: not a JSON object"),
        (
            '{"file_name": "a.png", "text": "a"}\n{"file_name": "a.png", "text": "b"}',
            "line 2: 'a.png' is named a second",
        ),
        (b"\xff\xfe", "it is not UTF-8"),
    ],
)
def test_a_table_that_is_wrong_is_one_clear_error(tmp_path, text, match):
    good(tmp_path, "a.png")
    (tmp_path / "metadata.jsonl").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(KoalaError, match=match):
        read_sets(tmp_path)


@pytest.mark.parametrize(
    "text, match",
    [
        ("file_name,text\na.png,one, two\n", "line 2: more columns than the header names; quote"),
        ('file_name,text\na.png,"one', "line 1: unexpected end of data"),
        ("image,text\na.png,one\n", "line 2: no file_name"),
    ],
)
def test_a_csv_table_that_is_wrong_is_one_clear_error(tmp_path, text, match):
    good(tmp_path, "a.png")
    (tmp_path / "metadata.csv").write_text(text)
    with pytest.raises(KoalaError, match=match):
        read_sets(tmp_path)


def test_two_tables_are_one_too_many(tmp_path):
    good(tmp_path, "a.png")
    for name in ("metadata.csv", "metadata.jsonl"):
        table(tmp_path, {"file_name": "a.png"}, name=name)
    with pytest.raises(KoalaError, match=r"both metadata\.jsonl and metadata\.csv; keep one"):
        read_sets(tmp_path)


def test_files_are_listed_without_being_read(tmp_path):
    for i in range(1000):
        (tmp_path / f"{i:04d}.png").touch()
    assert files(tmp_path) == [f"{i:04d}.png" for i in range(1000)]
