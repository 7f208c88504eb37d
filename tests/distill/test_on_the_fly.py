import threading
from pathlib import Path

import captioned
import numpy as np
import pytest
import torch
from encoded_images import options

from koala.commands.encode import run
from koala.distill.assemble import models_of, preparation
from koala.distill.batch import Examples
from koala.distill.config import Run
from koala.distill.data.cache import Cache
from koala.distill.data.captions import Captions
from koala.distill.data.encoding import preparation_for
from koala.distill.data.filters import Filters
from koala.distill.data.on_the_fly import LeftOut, OnTheFly
from koala.distill.data.prefetch import batches
from koala.distill.data.sources import open_source
from koala.errors import KoalaError
from koala.models import zoo
from koala.models.conditioning import PromptTruncated
from koala.models.load import load

COLUMNS = ("text", "llava")


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    folder = captioned.folder(tmp_path_factory.mktemp("photos"), 6, side=48)
    captioned.picture(0, 48, 96).save(folder / "images" / "0000.png")
    return folder


def on_the_fly(source: Path, name: str = "tiny-koala-700m", seed: int = 5, **choices) -> OnTheFly:
    spec = zoo.get(name)
    components = load(spec, "cpu", parts=("text", "autoencoder"))
    return OnTheFly(open_source(str(source)).indexed(), preparation_for(spec, 32, **choices), components, seed)


@pytest.mark.parametrize("name", ["tiny-koala-700m", "tiny-sdm-v1.4"])
def test_its_batches_are_those_of_the_cache_but_for_rounding(photos, tmp_path, name):
    run(options(photos, tmp_path / "cache", model=name, crops=3, flip=True, caption_columns=COLUMNS))
    cache = Cache(tmp_path / "cache", seed=5)
    live = on_the_fly(photos, name, crops=3, flip=True, captions=Captions(COLUMNS))
    assert isinstance(live, Examples) and len(live) == len(cache) == 6
    indices, positions = [0, 3, 0, 5, 0, 1, 0, 0], range(40, 48)
    kept, made = cache.batch(indices, positions), live.batch(indices, positions)
    assert (made.keys, made.captions, made.positions) == (kept.keys, kept.captions, kept.positions)
    torch.testing.assert_close(made.clean, kept.clean.float(), rtol=2e-3, atol=1e-3)
    for one, other in ((made.condition, kept.condition), (live.empty(), cache.empty())):
        torch.testing.assert_close(one.context, other.context.float(), rtol=2e-3, atol=2e-3)
    if name == "tiny-koala-700m":
        assert torch.equal(made.sizes, kept.sizes)
        assert len({tuple(made.sizes[row].tolist()) for row in (0, 2, 4, 6, 7)}) > 1  # not always the same crop
        torch.testing.assert_close(made.condition.pooled, kept.condition.pooled.float(), rtol=2e-3, atol=2e-3)
    else:
        assert made.sizes is None and kept.sizes is None


def test_a_column_that_no_image_has_is_an_error_before_any_step(photos):
    with pytest.raises(KoalaError, match="has the column lava; there are: text, llava, aesthetic"):
        on_the_fly(photos, captions=Captions(("text", "lava"), "append"))


def fresh(source: Path, name: str = "tiny-koala-700m", **choices) -> OnTheFly:
    """What a run with these fields reads."""
    run = Run(name, student_weights="random", on_the_fly=True, resolution=32, seed=5, **choices)
    models = models_of(run)
    components = load(models.frozen, "cpu", parts=("text", "autoencoder"))
    return OnTheFly(open_source(str(source)).indexed(), preparation(run, models), components, run.seed)


def test_random_crops_and_flips_are_others_at_each_position_and_the_same_in_each_run(photos):
    one = fresh(photos, random_crop=True, random_flip=True)
    first = one.batch([0] * 16, range(16))  # 48 x 96 pixels, of which 32 x 64 remain
    again = fresh(photos, random_crop=True, random_flip=True).batch([0] * 4, range(12, 16))
    torch.testing.assert_close(again.clean, first.clean[12:], rtol=1e-4, atol=1e-5)  # whatever the batch
    assert torch.equal(again.sizes, first.sizes[12:])
    lefts = first.sizes[:, 3].tolist()
    assert len({*lefts}) > 8 and min(lefts) >= 0 and max(lefts) <= 32
    assert {tuple(row) for row in fresh(photos, random_flip=True).batch([0] * 8, range(8)).sizes.tolist()} == {
        (48, 96, 0, 16, 32, 32)
    }


def test_a_random_flip_shows_about_half_of_the_images_mirrored(photos):
    live, plain = fresh(photos, random_flip=True), fresh(photos)
    example = open_source(str(photos)).indexed()[0]
    centre = plain._chosen(example, 0).crops[0].pixels
    shown = [next(iter(live._chosen(example, position).crops.values())).pixels for position in range(60)]
    mirrored = [np.array_equal(pixels, centre[:, ::-1]) for pixels in shown]
    assert 15 < sum(mirrored) < 45
    assert all(flip or np.array_equal(pixels, centre) for flip, pixels in zip(mirrored, shown, strict=True))


@pytest.mark.parametrize(("field", "instead"), [("random_crop", "--crops N"), ("random_flip", "--flip")])
def test_a_run_on_a_cache_is_told_how_to_encode_crops_and_flips(field, instead):
    with pytest.raises(KoalaError, match=f"--{field.replace('_', '-')} needs --on-the-fly; .*encode {instead}"):
        Run("tiny-koala-700m", student_weights="random", **{field: True})


def test_its_tensors_can_be_trained_on(photos):
    batch = on_the_fly(photos).batch([0], [0])
    weight = torch.ones(64, 1, requires_grad=True)
    (batch.condition.context @ weight).sum().backward()  # which inference-mode tensors refuse
    assert weight.grad is not None and not batch.clean.requires_grad


def test_the_next_image_takes_the_place_of_a_broken_one_which_is_listed_once(tmp_path):
    captioned.folder(tmp_path, 4, side=48)
    for number in (1, 2, 3):
        (tmp_path / "images" / f"000{number}.png").write_bytes(b"no image")
    live = on_the_fly(tmp_path)
    with pytest.warns(LeftOut) as told:
        assert live.batch([0, 1, 3], [0, 1, 2]).keys == ("images/0000.png",) * 3
        live.batch([2, 1], [3, 4])
    assert [str(warning.message).split(" is left out: broken")[0] for warning in told] == [
        f"images/000{number}.png" for number in (1, 2, 3)
    ]
    assert [refused.key for refused in live.refused] == ["images/0001.png", "images/0002.png", "images/0003.png"]


def test_filters_hold_on_the_fly_too(tmp_path):
    captioned.folder(tmp_path, 6, side=48)  # scores 4, 5, 6, 7, 4, 5
    live = on_the_fly(tmp_path, filters=Filters(score_column="aesthetic", min_score=6.0))
    with pytest.warns(LeftOut, match="low score"):
        assert {*live.batch(range(6), range(6)).keys} == {"images/0002.png", "images/0003.png"}


@pytest.mark.filterwarnings("ignore::koala.distill.data.on_the_fly.LeftOut")
def test_a_source_without_any_usable_image_is_an_error_and_no_endless_search(tmp_path):
    captioned.folder(tmp_path, 3, side=48)
    live = on_the_fly(tmp_path, filters=Filters(min_side=1000))
    with pytest.raises(KoalaError, match=r"no image of the source can be used; the first: images/0001.png: too small"):
        live.batch([1], [0])


def test_several_threads_may_ask_at_once(photos):
    live = on_the_fly(photos, captions=Captions(COLUMNS))
    schedule = [([i % 6, (i + 1) % 6], [2 * i, 2 * i + 1]) for i in range(12)]
    alone = [live.batch(*step) for step in schedule]
    running = threading.active_count()  # other tests of this process may have left theirs
    together = list(batches(live, schedule, threads=4))
    assert [batch.captions for batch in together] == [batch.captions for batch in alone]
    assert all(torch.equal(one.clean, other.clean) for one, other in zip(together, alone, strict=True))
    assert threading.active_count() <= running


def test_long_captions_are_no_line_each(tmp_path, recwarn):
    captioned.folder(tmp_path, 1, side=48)
    captioned.write_rows(tmp_path / "metadata.jsonl", [{"file_name": "images/0000.png", "text": "word " * 100}])
    on_the_fly(tmp_path).batch([0], [0])
    assert not [warning for warning in recwarn if issubclass(warning.category, PromptTruncated)]
