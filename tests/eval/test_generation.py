"""Images of a suite: which there are, that nothing but prompt, seed and settings decides them, that nothing is lost."""

import os
import resource
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from suite_drawing import MODEL, SUITE, draw, files

from eval.generation.pictures import pictures
from eval.generation.variants import Axes, variants
from eval.sources import read_sets
from eval.suite import Prompt, Suite
from koala.errors import KoalaError
from koala.harness.records import Row
from koala.sampling.encodings import GROUP, Encodings
from koala.sampling.gallery import Gallery
from koala.sampling.job import Picture, batches, loaded
from koala.sampling.sampler import Sampler

HERE = Path(__file__).parent
FOLDER = MODEL


def started(out, processes=1, **environment):
    """The drawing of the toy suite in processes of its own."""
    script = [str(HERE / "suite_drawing.py"), str(out)]
    launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"] if processes > 1 else []
    return subprocess.Popen(
        [sys.executable, *launch, *script],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{HERE.parents[1]}:{HERE}", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The suite drawn in one go by one process."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    (folder,) = draw(tmp_path_factory.mktemp("whole"))
    torch.set_num_threads(threads)
    return folder


# ---- which pictures


@given(
    texts=st.lists(st.sampled_from(["a cat", "a dog", "a cup", ""]), min_size=1, max_size=12),
    n=st.integers(1, 4),
    seed=st.integers(0, 1000),
)
def test_every_picture_of_a_suite_is_another_one_even_where_prompts_repeat(texts, n, seed):
    suite = Suite("s", "s", None, None, tuple(map(Prompt, texts)))
    todo = pictures(suite, n, seed)
    assert len({(picture.prompt, picture.seed) for picture in todo}) == len(todo) == n * len(texts)
    assert Counter(picture.prompt for picture in todo) == Counter(texts * n)
    assert [picture.prompt for picture in todo[: len(texts)]] == texts  # the first image of every prompt comes first
    assert min(picture.seed for picture in todo) == seed


def test_more_images_per_prompt_keep_those_that_are_there():
    few, more = pictures(SUITE, 1, 5), pictures(SUITE, 3, 5)
    assert more[: len(few)] == few


@pytest.mark.parametrize("bad", [{"images_per_prompt": 0}, {"seed": -1}, {"seed": 2**63}])
def test_impossible_numbers_of_images_and_seeds_are_errors(bad):
    with pytest.raises(KoalaError, match=r"seed|images-per-prompt"):
        pictures(SUITE, **{"images_per_prompt": 1, "seed": 0, **bad})


@given(
    n=st.integers(1, 40), size=st.integers(1, 7), ranks=st.integers(1, 5), gone=st.sets(st.integers(0, 39), max_size=20)
)
def test_every_missing_picture_is_in_one_share_and_batches_never_change(n, size, ranks, gone):
    todo = [Picture("p", seed) for seed in range(n)]
    missing = [picture for picture in todo if picture.seed not in gone]
    shares = [batches(todo, missing, size, rank, ranks) for rank in range(ranks)]
    together = [batch for share in shares for batch in share]
    assert together == batches(todo, missing, size)
    drawn = [picture for batch in together for picture in batch]
    assert len(set(map(str, drawn))) == len(drawn)
    assert set(map(str, missing)) <= set(map(str, drawn))
    whole = batches(todo, todo, size)
    assert all(batch in whole for batch in together)
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


# ---- the same images, however they were drawn


def test_the_manifest_says_all_of_an_image(whole):
    rows = Gallery(whole).rows()
    assert len(rows) == 2 * len(SUITE.prompts)
    row: Row = rows[0]
    assert (row["prompt"], row["seed"], row["tags"]) == ("a red cat", 0, {"colour": "red"})
    assert row["expects"] == {"include": [{"class": "cat", "count": 1, "color": "red"}]}
    assert (row["suite"], row["suite_digest"], row["prompt_id"]) == ("toy", SUITE.digest, "red-cat")
    assert (row["model"], row["profile"], row["weights"], row["weights_hash"]) == (MODEL, "eager", "random", None)
    assert row["recipe"]["steps"] == 1 and row["environment"] and row["started_at"]
    (images,) = read_sets(whole)
    assert images.items[0].expects == row["expects"] and images.items[0].tags == row["tags"]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("processes", [3])
def test_images_are_the_same_to_the_bit_whatever_the_number_of_processes(whole, tmp_path, processes):
    run = started(tmp_path, processes)
    _, stderr = run.communicate(timeout=300)
    assert run.returncode == 0, stderr
    assert f"by {processes} processes" in stderr
    assert files(tmp_path / FOLDER) == files(whole)
    writers = [path.name for path in (tmp_path / FOLDER).glob("manifest*")]
    assert sorted(writers) == [f"manifest.rank-{rank}.jsonl" for rank in range(processes)]
    assert len(Gallery(tmp_path / FOLDER).rows()) == len(files(whole))


@pytest.mark.timeout(600)
def test_a_process_that_dies_loses_nothing_and_one_process_finishes_to_the_bit(whole, tmp_path):
    run = started(tmp_path, 2, DIES="1")
    _, stderr = run.communicate(timeout=300)
    assert run.returncode != 0 and "SIGKILL" in stderr
    kept = Gallery(tmp_path / FOLDER).rows()
    assert 2 <= len(kept) < len(files(whole))
    before = {row["file"]: (tmp_path / FOLDER / row["file"]).stat().st_mtime_ns for row in kept}
    draw(tmp_path)
    assert files(tmp_path / FOLDER) == files(whole)
    again = {row["file"]: (tmp_path / FOLDER / row["file"]).stat().st_mtime_ns for row in kept}
    assert again == before  # what was there was not drawn over


def test_after_a_kill_in_the_middle_of_a_batch_the_same_images_come_out(whole, tmp_path):
    run = started(tmp_path, DIES="0")
    run.communicate(timeout=300)
    assert run.returncode == -signal.SIGKILL
    assert len(Gallery(tmp_path / FOLDER).rows()) == 2  # of the first batch of three
    draw(tmp_path)
    assert files(tmp_path / FOLDER) == files(whole)


def test_ctrl_c_in_the_middle_keeps_what_was_drawn(whole, tmp_path, monkeypatch):
    from koala.sampling.job import Model

    real, calls = Model.draw, []

    def draws(self, *arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Model, "draw", draws)
        with pytest.raises(KeyboardInterrupt):
            draw(tmp_path)
    assert len(Gallery(tmp_path / FOLDER).rows()) == 6  # two batches of three
    draw(tmp_path)
    assert files(tmp_path / FOLDER) == files(whole)


def test_a_full_disk_is_one_clear_error_and_nothing_half_written_counts(whole, tmp_path):
    before, heard = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    largest = max(len(data) for data in files(whole).values())
    room = largest + 100  # every image fits, and the manifest of twice as many does not
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
        with pytest.raises(
            KoalaError, match=r"cannot write .*manifest.jsonl: File too large; rows before it are whole"
        ):
            draw(tmp_path, images_per_prompt=4)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, heard)
    listing = Gallery(tmp_path / FOLDER).read()
    assert 0 < len(listing.rows) < 2 * len(files(whole)) and not listing.missing
    draw(tmp_path, images_per_prompt=4)
    assert files(tmp_path / FOLDER).items() > files(whole).items()
    assert len(Gallery(tmp_path / FOLDER).rows()) == 2 * len(files(whole))


def test_a_second_run_loads_no_model_and_draws_nothing(whole, monkeypatch):
    monkeypatch.setattr("koala.sampling.job.loaded", lambda *_: pytest.fail("a model was loaded"))
    assert draw(whole.parent) == [whole]


# ---- combinations


def test_each_combination_is_a_gallery_named_by_what_is_not_the_models_own(tmp_path):
    axes = Axes(("tiny-koala-700m",), steps=(25, 2), guidance=(7.5, 1.0), resolutions=(128, 64))
    assert [variant.name.removeprefix("tiny-koala-700m") for variant in variants(axes, "cpu", print)] == [
        "",
        "_64px",
        "_guidance1",
        "_guidance1_64px",
        "_steps2",
        "_steps2_64px",
        "_steps2_guidance1",
        "_steps2_guidance1_64px",
    ]


def test_what_a_model_cannot_do_is_left_out_with_its_reason_and_others_go_on():
    said = []
    axes = Axes(("tiny-dmd2-sdxl-4step", MODEL), steps=(1, 2))
    names = [variant.name for variant in variants(axes, "cpu", said.append)]
    assert names == [MODEL, f"{MODEL}_steps2"]
    assert len(said) == 2 and all(
        "tiny-dmd2-sdxl-4step steps" in line and "trained for the timesteps" in line for line in said
    )


def test_nothing_that_can_be_drawn_is_an_error():
    with pytest.raises(KoalaError, match="nothing can be drawn: tiny-dmd2-sdxl-4step steps 3"):
        variants(Axes(("tiny-dmd2-sdxl-4step",), steps=(3,)), "cpu", print)


def test_models_share_their_weights_and_encodings_over_settings(tmp_path, monkeypatch):
    loads, encoded = [], []
    monkeypatch.setattr("koala.sampling.job.loaded", lambda *given: loads.append(given) or loaded(*given))
    real = Sampler.encode_prompts
    monkeypatch.setattr(Sampler, "encode_prompts", lambda self, texts: encoded.append(texts) or real(self, texts))
    assert len(draw(tmp_path, steps=(1, 2), resolutions=(64, 128), images_per_prompt=1)) == 4
    assert len(loads) == 1
    assert encoded == [[prompt.text for prompt in SUITE.prompts]]


# ---- encodings


@pytest.mark.parametrize("guided", [False, True])
@pytest.mark.parametrize("negative", [None, "blurry"])
def test_encodings_are_what_the_sampler_encodes(guided, negative):
    from koala.models import zoo
    from koala.models.load import load

    sampler = Sampler(load(zoo.get("tiny-koala-700m"), "cpu"))
    recipe = replace(sampler.components.spec.recipe, guidance=5.0 if guided else 0.0, negative=negative)
    prompts = [f"prompt {place}" for place in range(GROUP + 3)]
    wanted = [prompts[GROUP], prompts[2], prompts[GROUP]]
    direct = sampler.encode(wanted, recipe=recipe)
    for most_bytes in (2**31, 0):
        kept = Encodings(sampler, prompts, most_bytes)(wanted, recipe)
        torch.testing.assert_close(kept.context, direct.context, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(kept.pooled, direct.pooled, rtol=1e-5, atol=1e-5)
