import json
import shlex
import subprocess
import sys
from pathlib import Path

import captioned
import pytest
import torch
import tyro
from encoded_images import options

from koala.commands.encode import EXAMPLES, Options, run
from koala.distill.data import building
from koala.distill.data.cache import Cache
from koala.distill.data.cost import bytes_per_caption, bytes_per_image
from koala.distill.data.encoding import Encoder, Preparation
from koala.distill.data.sources import open_source
from koala.errors import KoalaError
from koala.models import zoo

SDXL_IMAGE_BYTES = 449_064  # 4 x 128 x 128 and 77 x 2048 + 1280 values in fp16, six sizes, two offsets


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    return captioned.folder(tmp_path_factory.mktemp("photos"), 5, side=48)


@pytest.mark.parametrize(
    "write", [captioned.tars, lambda path, n, side: captioned.parquet(path / "x.parquet", n, side)]
)
def test_tars_and_tables_become_the_same_images_as_a_folder(tmp_path, write):
    write(tmp_path / "source", 5, side=48)
    assert run(options(tmp_path / "source", tmp_path / "cache")) == 0
    captions = {*Cache(tmp_path / "cache").batch(range(5), range(5)).captions}
    assert captions == {captioned.columns(number)["text"] for number in range(5)}


def test_a_cache_stays_what_it_is_when_the_model_it_was_made_for_is_trained(photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def weights(model, given):
        source, spec = open_source(str(photos)), zoo.get(model)
        job = building.Job(spec, given or spec.own_weights, str(photos), source, Preparation(32))
        return job.content("fp32", 1)["weights"]

    before = weights("emoji-teacher", "")
    (tmp_path / zoo.get("emoji-teacher").folder).mkdir(parents=True)
    assert before == weights("emoji-teacher", "") == "hub", "its text encoder is not in that folder"
    assert weights("emoji-teacher", "random") == "random"
    (tmp_path / "mine").mkdir()
    assert weights("koala-700m", "mine") == str(tmp_path / "mine")


def test_captions_that_an_image_has_twice_are_kept_once(tmp_path):
    captioned.folder(tmp_path, 2, side=32)
    rows = [{"file_name": f"images/000{i}.png", "text": ["same", "same", f"other {i}"]} for i in range(2)]
    captioned.write_rows(tmp_path / "metadata.jsonl", rows)
    run(options(tmp_path, tmp_path / "cache"))
    lines = next((tmp_path / "cache").glob("rows*.jsonl")).read_text().splitlines()
    assert [json.loads(line)["captions"] for line in lines] == [["same", "other 0"], ["same", "other 1"]]


def test_what_is_left_out_is_counted_and_listed(tmp_path, capsys):
    captioned.folder(tmp_path, 6, side=48)
    (tmp_path / "images" / "0000.png").write_bytes(b"")
    captioned.picture(1, 20, 90).save(tmp_path / "images" / "0001.png")
    rows = [{"file_name": f"images/{i:04d}.png", **captioned.columns(i)} for i in range(6)]
    rows[2]["text"] = "  "
    rows[3]["text"] = "short"
    captioned.write_rows(tmp_path / "metadata.jsonl", rows)
    assert run(options(tmp_path, tmp_path / "cache", min_side=32, min_words=2)) == 0
    printed = capsys.readouterr().out
    lines = dict(line.split(": ", 1) for line in printed.split("\n\n")[0].splitlines())
    assert lines["images"] == "2" and lines["model"] == "tiny-koala-700m, random weights, fp32"
    assert int(lines["bytes"]) == sum(path.stat().st_size for path in (tmp_path / "cache").glob("rows*"))
    for reason, key in (("broken", 0), ("too small", 1), ("no caption", 2), ("caption too short or long", 3)):
        assert any(reason in line and f"images/{key:04d}.png" in line for line in printed.splitlines())
    assert Cache(tmp_path / "cache").batch([0, 1], [0, 1]).keys == ("images/0004.png", "images/0005.png")


def test_a_source_without_any_usable_image_ends_with_1_and_an_unusable_cache(tmp_path, capsys):
    captioned.folder(tmp_path, 2, side=48)
    assert run(options(tmp_path, tmp_path / "cache", min_side=100)) == 1
    assert "images: 0\n" in capsys.readouterr().out
    with pytest.raises(KoalaError, match="holds no image"):
        Cache(tmp_path / "cache")


def test_long_captions_are_counted_and_not_printed_one_by_one(tmp_path, capsys, recwarn):
    captioned.folder(tmp_path, 3, side=48)
    rows = [{"file_name": f"images/000{i}.png", "text": f"{i} " * 100 * (i > 0) + "end"} for i in range(3)]
    captioned.write_rows(tmp_path / "metadata.jsonl", rows)
    run(options(tmp_path, tmp_path / "cache"))
    printed = capsys.readouterr()
    assert "captions longer than the text encoder reads: 2\n" in printed.out
    assert "left out:" not in printed.err and not [w for w in recwarn if "CLIP reads" in str(w.message)]


def test_a_column_that_nothing_has_is_an_error_that_lists_the_columns(photos, tmp_path):
    with pytest.raises(KoalaError, match=r"has the column caption; there are: text, llava, aesthetic"):
        run(options(photos, tmp_path / "cache", caption_columns=("caption",)))


def test_a_unit_whose_rows_all_lack_a_column_is_encoded_as_one_that_has_it(tmp_path, monkeypatch):
    monkeypatch.setattr("koala.distill.data.folder.ROWS_PER_UNIT", 2)
    captioned.folder(tmp_path, 4, side=32)
    rows = [{"file_name": f"images/000{i}.png", "text": f"short {i}"} for i in range(4)]
    rows[1]["llava"] = "long"
    captioned.write_rows(tmp_path / "metadata.jsonl", rows)
    run(options(tmp_path, tmp_path / "cache", caption_columns=("text", "llava"), captions="replace"))
    assert Cache(tmp_path / "cache").batch(range(4), range(4)).captions == ("short 0", "long", "short 2", "short 3")


@pytest.mark.parametrize("write", [captioned.folder, lambda path, n, side: captioned.tars(path, n, 1, side)])
def test_a_source_that_changed_is_refused_and_never_mixed_with_what_was_encoded(tmp_path, write):
    write(tmp_path / "source", 2, side=32)
    run(options(tmp_path / "source", tmp_path / "cache"))
    write(tmp_path / "source", 3, side=32)  # which is as many units
    with pytest.raises(KoalaError, match=r"source_digest: \w{16} there, \w{16} here"):
        run(options(tmp_path / "source", tmp_path / "cache"))
    write(tmp_path / "source", 2, side=32)
    assert run(options(tmp_path / "source", tmp_path / "cache")) == 0


@pytest.mark.parametrize("limit", [1, 3, 4, 99])
def test_a_limit_takes_the_first_examples_and_no_unit_more_than_needed(tmp_path, limit):
    captioned.tars(tmp_path / "tars", 6, shards=3, side=32)
    run(options(tmp_path / "tars", tmp_path / "cache", limit=limit))
    cache = Cache(tmp_path / "cache")
    assert len(cache) == min(limit, 6)
    wanted = [example.key for unit in range(3) for example in open_source(str(tmp_path / "tars")).read(unit)]
    assert list(cache.batch(range(len(cache)), range(len(cache))).keys) == wanted[:limit]
    assert len(cache.index.units) == min(-(-limit // 2), 3)


# ---- what it costs


def test_an_sdxl_image_costs_0_44_mb_and_what_is_written_costs_what_was_said(tmp_path, capsys):
    assert bytes_per_image(zoo.get("sdxl"), 1024) == SDXL_IMAGE_BYTES
    assert round(SDXL_IMAGE_BYTES / 1e6, 2) == 0.45 and 0.42 < SDXL_IMAGE_BYTES / 2**20 < 0.44
    captioned.folder(tmp_path, 9, side=48)
    chosen = {"crops": 2, "flip": True, "caption_columns": ("text", "llava")}
    run(options(tmp_path, tmp_path / "cache", **chosen))
    (file,) = (tmp_path / "cache").glob("rows*.safetensors")
    spec = zoo.get("tiny-koala-700m")
    assert 0 <= file.stat().st_size - 9 * bytes_per_image(spec, 32, captions=2, variants=4) < 600  # the header
    capsys.readouterr()
    run(options(tmp_path, dry_run=True, **chosen))
    assert f"bytes: {9 * bytes_per_image(spec, 32, 2, 4)}\n" in capsys.readouterr().out
    assert bytes_per_image(spec, 32, 3) - bytes_per_image(spec, 32, 2) == bytes_per_caption(spec)


def test_a_dry_run_loads_no_weights_and_writes_nothing(photos, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(building, "load", None)
    (photos / "images" / "0005.png").write_bytes(b"not in the metadata")
    assert run(options(photos, tmp_path / "cache", model="sdxl", resolution=0, dry_run=True)) == 0
    lines = capsys.readouterr().out.split("\n\n")[0].splitlines()
    assert {"images: 5", f"bytes per image with one caption: {SDXL_IMAGE_BYTES}", f"bytes: {5 * SDXL_IMAGE_BYTES}"} <= {
        *lines
    }
    assert not (tmp_path / "cache").exists()


# ---- mistakes and faults


def test_a_full_gpu_is_an_error_that_names_the_batch_size(photos, tmp_path, monkeypatch):
    def full(self, squares):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Encoder, "_latents", full)
    with pytest.raises(KoalaError, match=r"the GPU's memory is full; try a --batch-size below 8"):
        run(options(photos, tmp_path / "cache"))
    monkeypatch.undo()
    assert run(options(photos, tmp_path / "cache", batch_size=2)) == 0  # goes on in the same folder


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"model": ""}, "there is no --model"),
        ({"model": "sdlx"}, "unknown model 'sdlx'"),
        ({"out": None}, "there is no --out"),
        ({"batch_size": 0}, "--batch-size must be at least 1"),
        ({"limit": -1}, "--limit must be at least 0"),
        ({"resolution": 33}, "draws multiples of 8 pixels"),
        ({"crops": 0}, "--crops must be at least 1"),
        ({"dtype": "fp8"}, "unknown dtype 'fp8'"),
        ({"score_column": "aesthetic"}, "--score-column and --min-score go together"),
        ({"weights": "nowhere"}, "there is no 'nowhere'"),
    ],
)
def test_mistakes_are_named(photos, tmp_path, wrong, message):
    with pytest.raises(KoalaError, match=message):
        run(options(photos, **({"out": tmp_path / "cache"} | wrong)))


def test_mistakes_leave_nothing_behind_that_would_stand_in_the_way(photos, tmp_path):
    for wrong in ({"dtype": "fp8"}, {"weights": "nowhere"}, {"caption_columns": ("caption",)}):
        with pytest.raises(KoalaError):
            run(options(photos, tmp_path / "cache", **wrong))
    assert run(options(photos, tmp_path / "cache")) == 0
    assert len(Cache(tmp_path / "cache")) == 5


def test_checking_says_what_is_wrong_and_the_same_command_mends_it(photos, tmp_path, capsys):
    run(options(photos, tmp_path / "cache"))
    capsys.readouterr()
    assert run(Options(str(tmp_path / "cache"), check=True)) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'cache'}: 1 shards, all of them whole\n"
    (file,) = (tmp_path / "cache").glob("rows*.safetensors")
    good = file.read_bytes()
    file.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    assert run(Options(str(tmp_path / "cache"), check=True)) == 1
    printed = capsys.readouterr()
    assert printed.out.startswith(f"{file} is damaged") and "remove damaged files" in printed.err
    file.unlink()
    run(options(photos, tmp_path / "cache"))
    assert file.read_bytes() == good


def test_help_needs_no_torch_and_every_example_is_understood():
    program = "import koala.commands.encode, sys; print('torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout == "False\n"
    for example in EXAMPLES:
        words = shlex.split(example)
        tyro.cli(Options, args=words[words.index("encode") + 1 :], config=(tyro.conf.FlagCreatePairsOff,))


def test_what_decides_the_content_is_in_the_first_row(photos, tmp_path):
    run(options(photos, tmp_path / "cache", crops=2, captions="append", caption_columns=("text", "llava"), min_side=9))
    row = json.loads((tmp_path / "cache" / "index.jsonl").read_text().splitlines()[0])
    assert row["model"] == "tiny-koala-700m" and row["weights"] == "random" and row["dtype"] == "fp32"
    assert row["source"] == str(photos) and row["captions"] == {"columns": ["text", "llava"], "mode": "append"}
    assert row["filters"]["min_side"] == 9 and row["crops"] == 2 and row["resolution"] == 32 and row["seed"] == 0
    decides = set(Preparation.__dataclass_fields__) - {"side", "classes"}
    assert decides <= {*row}
