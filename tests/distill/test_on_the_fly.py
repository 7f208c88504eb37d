import threading
from pathlib import Path

import captioned
import pytest
import torch
from encoded_images import options

from koala.commands.encode import run
from koala.distill.batch import Examples
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
