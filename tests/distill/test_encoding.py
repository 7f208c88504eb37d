import weakref
from dataclasses import replace
from pathlib import Path

import captioned
import numpy as np
import pytest
import torch
from encoded_images import options
from PIL import Image
from safetensors.torch import load_file

from koala.commands.encode import run
from koala.distill.data import encoding, images
from koala.distill.data.cache import Cache, read_index
from koala.distill.data.cost import bytes_per_image
from koala.distill.data.encoding import Encoder, Prepared, preparation_for
from koala.distill.data.order import number_below
from koala.distill.data.sources import open_source
from koala.errors import KoalaError
from koala.models import load, zoo
from koala.models.spec import ClassLabels, TinyAutoencoderPlan
from koala.sampling import seeds


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    return captioned.folder(tmp_path_factory.mktemp("photos"), 5, side=48)


def components(name: str, seed: int = 0):
    return load.load(zoo.get(name), "cpu", parts=("text", "autoencoder"), seed=seed)


def reference_latents(found, pixels: np.ndarray, noise: torch.Tensor) -> torch.Tensor:
    vae = found.autoencoder
    samples = torch.tensor(pixels).permute(2, 0, 1)[None].float() / 255 * 2 - 1
    with torch.no_grad():
        posterior = vae.encode(samples).latent_dist
    return (posterior.mean + posterior.std * noise) * vae.config.scaling_factor


@pytest.mark.parametrize("name", ["tiny-koala-700m", "tiny-sdm-v1.4", "tiny-sdm-v2.0", "tiny-bk-sdm-tiny"])
def test_a_cache_holds_what_the_networks_say(photos, tmp_path, name):
    assert run(options(photos, tmp_path / "cache", model=name, seed=3)) == 0
    batch, found = Cache(tmp_path / "cache").batch([4, 1], [0, 1]), components(name, seed=3)
    assert batch.captions == tuple(captioned.columns(i)["text"] for i in (4, 1))
    for row, number in enumerate((4, 1)):
        key = f"images/{number:04d}.png"
        resized = Image.open(photos / key).resize((32, 32), Image.Resampling.BILINEAR)
        generator = seeds.generator(number_below(2**63, 3, key, "posterior", 0))
        noise = torch.randn(batch.clean.shape[1:], generator=generator)
        wanted = reference_latents(found, np.array(resized), noise)
        torch.testing.assert_close(batch.clean[row : row + 1].float(), wanted, rtol=2e-3, atol=1e-4)
    wanted = found.conditioner.encode(list(batch.captions))
    torch.testing.assert_close(batch.condition.context.float(), wanted.context, rtol=2e-3, atol=2e-3)
    if wanted.pooled is None:
        assert batch.condition.pooled is None and batch.sizes is None
    else:
        torch.testing.assert_close(batch.condition.pooled.float(), wanted.pooled, rtol=2e-3, atol=2e-3)
        assert batch.sizes.tolist() == [[48, 48, 0, 0, 32, 32]] * 2


@pytest.mark.parametrize("name", ["tiny-koala-700m", "tiny-sdm-v1.4"])
def test_no_caption_is_what_guidance_contrasts_with(photos, tmp_path, name):
    run(options(photos, tmp_path / "cache", model=name))
    empty = Cache(tmp_path / "cache").empty().context.float()
    if name == "tiny-koala-700m":
        assert torch.equal(empty, torch.zeros_like(empty))
    else:
        torch.testing.assert_close(empty, components(name).conditioner.encode([""]).context, rtol=2e-3, atol=2e-3)


def test_crops_and_mirrored_ones_are_variants_of_an_image(tmp_path):
    captioned.folder(tmp_path / "wide", 1, side=48)
    captioned.picture(0, 48, 96).save(tmp_path / "wide" / "images" / "0000.png")
    run(options(tmp_path / "wide", tmp_path / "cache", crops=3, flip=True))
    found = load_file(next((tmp_path / "cache").glob("rows*.safetensors")))
    assert found["clean"].shape == (1, 6, 4, 4, 4)
    sizes = found["sizes"][0]
    assert (sizes[:, [0, 1, 2, 4, 5]] == torch.tensor([48, 96, 0, 32, 32])).all()
    assert sizes[0, 3] == sizes[3, 3] == 16  # the centre first
    assert len({*sizes[[1, 2, 4, 5], 3].tolist()}) > 2 and (sizes[:, 3] <= 32).all()
    resized = Image.open(tmp_path / "wide" / "images" / "0000.png").resize((64, 32), Image.Resampling.BILINEAR)
    mirrored = np.array(resized)[:, 16:48][:, ::-1].copy()
    generator = seeds.generator(number_below(2**63, 0, "images/0000.png", "posterior", 3))
    wanted = reference_latents(components("tiny-koala-700m"), mirrored, torch.randn((4, 4, 4), generator=generator))
    torch.testing.assert_close(found["clean"][:, 3].float(), wanted, rtol=2e-3, atol=1e-4)


def test_neither_the_batch_nor_the_threads_change_more_than_rounding(photos, tmp_path):
    for name, chosen in {"a": {}, "b": {"batch_size": 2, "workers": 0}, "c": {"workers": 3}}.items():
        run(options(photos, tmp_path / name, crops=2, caption_columns=("text", "llava"), **chosen))
    files = {name: next((tmp_path / name).glob("rows*.safetensors")) for name in "abc"}
    assert files["a"].read_bytes() == files["c"].read_bytes()
    one, other = load_file(files["a"]), load_file(files["b"])
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("workers", [0, 2])
def test_images_that_wait_to_be_encoded_are_squares_and_no_whole_photographs(photos, tmp_path, monkeypatch, workers):
    decoded, alive = [], []

    def decode(*arguments):
        decoded.append(weakref.ref(image := images.decode(*arguments)))
        return image

    def encode(self, waiting):
        alive.append(sum(image() is not None for image in decoded[: len(waiting)]))
        return made(self, waiting)

    made = Encoder.encode
    monkeypatch.setattr("koala.distill.data.filters.decode", decode)
    monkeypatch.setattr(Encoder, "encode", encode)
    run(options(photos, tmp_path / "cache", batch_size=5, workers=workers))
    assert len(decoded) == 5 and alive == [0]


def test_equal_captions_are_encoded_once(photos, monkeypatch):
    found = components("tiny-koala-700m")
    asked = []
    encode = found.conditioner.encode
    monkeypatch.setattr(found.conditioner, "encode", lambda prompts: asked.append(list(prompts)) or encode(prompts))
    preparation = preparation_for(found.spec, 32)
    prepared = [preparation.prepare(example) for example in open_source(str(photos)).read(0)]
    assert all(isinstance(one, Prepared) for one in prepared)
    texts = (("a", "b"), ("b",), ("a",), ("c", "b"), ("d",))
    images = [replace(one, captions=some) for one, some in zip(prepared, texts, strict=True)]
    encoded = Encoder(found, batch_size=3).encode(images)
    assert asked == [["a", "b", "c"], ["d"]]
    assert torch.equal(encoded[0].condition.context[1], encoded[1].condition.context[0])
    assert torch.equal(encoded[3].condition.pooled[1], encoded[0].condition.pooled[1])


def test_large_units_become_several_shards(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(encoding, "SHARD_BYTES", 25_000)  # 12 kB an image
    run(options(photos, tmp_path / "cache"))
    assert [shard["rows"] for shard in read_index(tmp_path / "cache").shards] == [3, 2]
    whole = Cache(tmp_path / "cache").batch(range(5), range(5))
    assert whole.keys == tuple(f"images/{i:04d}.png" for i in range(5))


def test_a_model_without_autoencoder_gets_pixels_and_one_with_classes_their_rows(photos):
    spec = zoo.get("tiny-sdm-v1.4")
    names = ("a red square, picture 0", "a green square, picture 1")
    spec = replace(
        spec,
        conditioning=ClassLabels(names),
        autoencoder=None,
        unet=replace(spec.unet, context_dim=None, class_labels=3, sample_channels=3),
    )
    preparation = preparation_for(spec, 32)
    outcomes = [preparation.prepare(example) for example in open_source(str(photos)).read(0)]
    assert [getattr(outcome, "reason", "") for outcome in outcomes] == ["", "", *["no class of the model"] * 3]
    encoder = Encoder(load.load(spec, "cpu", parts=("text", "autoencoder")))
    encoded = [image.stored() for image in encoder.encode(outcomes[:2])]
    assert [image.condition.labels.tolist() for image in encoded] == [[0], [1]]
    assert encoder.empty().labels.tolist() == [2]
    pixels = np.array(Image.open(photos / "images" / "0001.png").resize((32, 32), Image.Resampling.BILINEAR))
    wanted = torch.tensor(pixels).permute(2, 0, 1).float() / 127.5 - 1
    torch.testing.assert_close(encoded[1].clean[0].float(), wanted, rtol=1e-3, atol=1e-3)
    assert encoded[1].num_bytes + 16 == bytes_per_image(spec, 32)


def test_a_tiny_autoencoder_has_no_posterior_to_sample(photos):
    spec = zoo.get("tiny-sdm-v1.4")
    spec = replace(spec, autoencoder=TinyAutoencoderPlan((32,) * 4, None))
    found = load.load(spec, "cpu", parts=("text", "autoencoder"))
    prepared = preparation_for(spec, 32).prepare(next(open_source(str(photos)).read(0)))
    (encoded,) = Encoder(found).encode([prepared])
    samples = torch.tensor(prepared.crops[0].pixels).permute(2, 0, 1)[None].float() / 127.5 - 1
    with torch.no_grad():
        wanted = found.autoencoder.encode(samples).latents
    torch.testing.assert_close(encoded.clean, wanted)


def test_an_autoencoder_that_must_not_run_in_fp16_encodes_in_fp32(photos):
    found = load.load(zoo.get("tiny-sdxl"), "cpu", "fp16", parts=("autoencoder",))
    assert found.autoencoder.dtype == torch.float32
    prepared = preparation_for(found.spec, 32).prepare(next(open_source(str(photos)).read(0)))
    plain = components("tiny-sdxl")
    mixed = replace(found, conditioner=plain.conditioner)
    assert torch.equal(Encoder(mixed).encode([prepared])[0].clean, Encoder(plain).encode([prepared])[0].clean)


def test_values_that_are_no_numbers_never_get_into_a_cache(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(Encoder, "_latents", lambda self, squares: torch.full((len(squares), 4, 4, 4), 7e4))
    with pytest.raises(KoalaError, match=r"images/0000.png has values that are no numbers in fp16; try --dtype"):
        run(options(photos, tmp_path / "cache"))
    assert not list((tmp_path / "cache").glob("rows*"))
