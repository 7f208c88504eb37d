import json
import os
from dataclasses import replace
from pathlib import Path

import encoded_images
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from koala.distill.batch import Examples
from koala.distill.data import cache as module
from koala.distill.data.cache import Cache, Writer, choice, read_index
from koala.distill.data.shards import Shard
from koala.errors import KoalaError
from koala.models import zoo


def images(*numbers: int, captions: int = 1, variants: int = 1):
    return [encoded_images.image(number, captions, variants) for number in numbers]


@pytest.fixture
def folder(tmp_path):
    return encoded_images.cache(tmp_path / "cache", [images(0, 1, 2, captions=2, variants=3), [], images(3, 4, 5, 6)])


def test_images_are_numbered_in_the_order_of_the_source(tmp_path):
    cache = Cache(encoded_images.cache(tmp_path / "c", [images(0, 1, 2), images(3), images(4, 5)]))
    assert isinstance(cache, Examples) and len(cache) == 6
    batch = cache.batch([4, 0, 3, 3], positions=[7, 8, 9, 10])
    wanted = [encoded_images.image(number) for number in (4, 0, 3, 3)]
    assert batch.keys == tuple(image.key for image in wanted)
    assert batch.positions == (7, 8, 9, 10)
    assert torch.equal(batch.clean, torch.cat([image.clean for image in wanted]))
    assert torch.equal(batch.sizes, torch.cat([image.sizes for image in wanted]).float())
    assert torch.equal(batch.condition.pooled, torch.cat([image.condition.pooled for image in wanted]))
    assert torch.equal(cache.empty().context, torch.zeros(1, 5, 8))


def test_a_model_that_is_told_no_sizes_gets_none(tmp_path):
    plain = [encoded_images.image(0, pooled=False)]
    assert Cache(encoded_images.cache(tmp_path / "c", [plain])).batch([0], [0]).sizes is None


def test_every_caption_and_variant_of_an_image_comes_up_and_captions_stay_with_their_states(folder):
    cache, seen = Cache(folder), set()
    image = encoded_images.image(1, captions=2, variants=3)
    for position in range(100):
        batch = cache.batch([1], [position])
        caption = image.captions.index(batch.captions[0])
        variant = next(v for v in range(3) if torch.equal(batch.clean[0], image.clean[v]))
        assert torch.equal(batch.condition.context[0], image.condition.context[caption])
        assert torch.equal(batch.sizes[0], image.sizes[variant].float())
        seen.add((caption, variant))
    assert len(seen) == 6


def test_a_row_depends_on_its_position_and_the_seed_and_not_on_its_batch(folder):
    numbers = [0, 1, 2, 0, 1, 2]
    together = Cache(folder).batch(numbers, range(6))
    alone = [Cache(folder).batch([number], [position]) for position, number in enumerate(numbers)]
    assert together.captions == sum((batch.captions for batch in alone), ())
    assert torch.equal(together.clean, torch.cat([batch.clean for batch in alone]))
    assert any(Cache(folder, seed=s).batch(numbers, range(6)).captions != together.captions for s in range(1, 9))


@given(st.integers(0, 2**40), st.integers(0, 2**40), st.integers(1, 9), st.integers(1, 9))
def test_a_choice_is_among_what_there_is(seed, position, captions, variants):
    caption, variant = choice(seed, position, captions, variants)
    assert 0 <= caption < captions and 0 <= variant < variants


def test_few_shards_are_open_at_a_time_however_many_there_are(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_OPEN_SHARDS", 3)
    opened = []
    monkeypatch.setattr(module, "Shard", lambda *arguments: opened.append(arguments) or Shard(*arguments))
    cache = Cache(encoded_images.cache(tmp_path / "c", [images(*range(40))]))

    def files() -> int:
        maps = Path("/proc/self/maps").read_text().split("\n")
        return len({line.split()[-1] for line in maps if line.endswith(".safetensors") and str(tmp_path) in line})

    for number in range(40):
        cache.batch([number], [0])
        assert files() <= 3
    assert len(opened) == 20
    cache.batch([39, 38, 36, 34], [0] * 4)
    assert len(opened) == 20


def test_the_index_of_several_processes_is_read_as_one(tmp_path):
    folder = encoded_images.cache(tmp_path / "one", [images(0, 1), images(2, 3), images(4)])
    rows = (folder / "index.jsonl").read_text().splitlines()
    (folder / "index.jsonl").write_text("\n".join([rows[0], rows[1], rows[4], rows[2]]) + "\n")
    (folder / "index.rank-1.jsonl").write_text("\n".join([rows[0], rows[3]]) + "\n")
    assert Cache(folder).batch(range(5), range(5)).keys == tuple(image.key for image in images(0, 1, 2, 3, 4))


def test_no_folder_another_folder_and_an_empty_cache_are_refused(tmp_path):
    with pytest.raises(KoalaError, match=r"is no cache: it has no index.jsonl; `python -m koala encode` writes one"):
        Cache(tmp_path / "nothing")
    with pytest.raises(KoalaError, match="is no cache"):
        Cache(tmp_path)
    with Writer(tmp_path / "c", {**encoded_images.SETTINGS, "units": 1}) as writer:
        writer.add_empty(lambda: encoded_images.image(0).condition)
        writer.add_unit(0, {"name": "unit", "shards": [], "tally": {}})
    with pytest.raises(KoalaError, match="holds no image"):
        Cache(tmp_path / "c")


def test_an_unfinished_cache_is_refused_unless_it_is_asked_for(tmp_path):
    folder = encoded_images.cache(tmp_path / "c", [images(0), images(1)], total=5)
    with pytest.raises(KoalaError, match=r"is not finished: 2 of 5 units are; run the same .* command again"):
        Cache(folder)
    assert len(Cache(folder, unfinished=True)) == 2


@pytest.mark.parametrize("name", ["unit-0-1.safetensors", "unit-2-0.jsonl", "empty.safetensors"])
def test_a_missing_or_shortened_file_is_named(folder, name):
    data = (folder / name).read_bytes()
    os.truncate(folder / name, len(data) - 1)
    with pytest.raises(KoalaError, match=rf"{name} has .* bytes, and .* command again makes it anew"):
        Cache(folder)
    (folder / name).unlink()
    with pytest.raises(KoalaError, match=f"{name} is missing"):
        Cache(folder)


@pytest.mark.parametrize("name", ["unit-0-1.safetensors", "unit-2-0.jsonl", "empty.safetensors"])
def test_checking_finds_a_changed_byte(folder, name):
    cache = Cache(folder)
    assert cache.check() == []
    data = bytearray((folder / name).read_bytes())
    data[-5] ^= 1
    (folder / name).write_bytes(data)
    assert [problem.split("/")[-1].split(":")[0] for problem in Cache(folder).check()] == [f"{name} is damaged"]


def test_a_cache_refuses_models_with_other_text_encoders_or_latents_and_other_sides(folder):
    cache = Cache(folder)
    assert (cache.model, cache.resolution) == ("tiny-sdxl", 128)
    cache.refuse_other(zoo.get("tiny-koala-700m"), 128)
    with pytest.raises(KoalaError, match=r"encoded for tiny-sdxl, whose text encoders tiny-sdm-v1.4 does not have"):
        cache.refuse_other(zoo.get("tiny-sdm-v1.4"), 128)
    spec = zoo.get("tiny-sdxl")
    scaled = replace(spec, name="other", autoencoder=replace(spec.autoencoder, scaling_factor=1.0))
    with pytest.raises(KoalaError, match="whose latent space other does not have"):
        cache.refuse_other(scaled, 128)
    with pytest.raises(KoalaError, match="encoded at 128 pixels, and 64 are asked for"):
        cache.refuse_other(spec, 64)


def test_other_settings_into_the_same_folder_are_named(folder):
    other = encoded_images.SETTINGS | {"units": 3, "resolution": 64, "seed": 7}
    with pytest.raises(KoalaError, match=r"resolution: 128 there, 64 here; seed: none there, 7 here\); choose another"):
        Writer(folder, other).__enter__()
    with Writer(folder, {**encoded_images.SETTINGS, "units": 3}):  # the lock was let go
        pass


def test_processes_that_disagree_are_refused(folder):
    row = json.loads((folder / "index.jsonl").read_text().splitlines()[0])
    (folder / "index.rank-1.jsonl").write_text(json.dumps(row | {"resolution": 64}) + "\n")
    with pytest.raises(KoalaError, match="resolution: 128 there, 64 here"):
        read_index(folder)


def test_two_writers_of_one_rank_and_folders_of_other_things_are_refused(tmp_path, folder):
    settings = {**encoded_images.SETTINGS, "units": 3}
    with Writer(folder, settings), pytest.raises(KoalaError, match="another run is writing"):
        Writer(folder, settings).__enter__()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "holiday.jpg").touch()
    with pytest.raises(KoalaError, match=r"holds other files and no index.jsonl"):
        Writer(tmp_path / "other", settings).__enter__()
    with pytest.raises(KoalaError, match="is a file, and a cache is a folder"):
        Writer(tmp_path / "other" / "holiday.jpg", settings).__enter__()


def test_the_newest_row_of_a_unit_wins(folder):
    with Writer(folder, {**encoded_images.SETTINGS, "units": 3}) as writer:
        writer.add_unit(1, {"name": "again", "shards": writer.index.units[2]["shards"], "tally": {}})
    assert len(Cache(folder)) == 3 + 4 + 4
