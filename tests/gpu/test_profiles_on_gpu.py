"""Speed profiles on a GPU: what each saves, and how far its images move."""

import pytest
import torch

from bench import sweep
from bench.case import Case
from bench.isolate import ForkServer
from bench.rule import Rule
from koala.models import zoo
from koala.models.load import load
from koala.sampling import profiles
from koala.sampling.sampler import Sampler
from koala.sampling.schedules import with_steps

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")]
CUDA = torch.device("cuda")
PROMPTS = ["a red apple", "a blue car"]
RULE = Rule(warmup=3, repeats=3, budget_s=0.0)


class Silent:
    def begin(self, job): ...

    def message(self, message): ...

    def end(self, row): ...


def sampler_of(model, dtype="fp16", profile="eager"):
    chosen, spec = profiles.get(profile), zoo.get(model)
    chosen.check(spec, CUDA, dtype)
    return Sampler(load(chosen.respec(spec), CUDA, dtype, storage=chosen.storage), chosen)


def latents_of(sampler, seeds, steps=4, resolution=None):
    recipe = with_steps(sampler.components.spec.recipe, steps)
    condition = sampler.encode(PROMPTS[: len(seeds)], recipe=recipe)
    return sampler.denoise(condition, seeds, recipe, resolution, resolution).clone()


def difference(a, b):
    """Root mean square of a - b, as a share of b's spread."""
    return ((a.float() - b.float()).square().mean().sqrt() / b.float().std()).item()


def possible(model, profile):
    obstacle = profiles.get(profile).obstacle(zoo.get(model), CUDA, "fp16")
    if obstacle:
        pytest.skip(obstacle)
    return profile


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """A row of one image at 512 px in 4 steps, by profile and model, measured once each."""
    server, path, known = ForkServer(), tmp_path_factory.mktemp("gpu") / "rows.jsonl", {}

    def row(profile, model):
        if (model, profile) not in known:
            case = Case(model, "pipeline", 512, 1, "fp16", 4, "cuda", profile=profile)
            (known[model, profile],) = sweep.run([sweep.Job(case)], sweep.Plan(RULE, 300.0), path, server, Silent())
        return known[model, profile]

    return row


@pytest.mark.timeout(600)
@pytest.mark.parametrize("profile", ["diffusers-eager", *profiles.PROFILES, "tiny-vae+compiled"])
def test_every_profile_gives_a_row_with_its_stages_or_says_why_not(rows, profile):
    row = rows(profile, "tiny-koala-700m")
    assert row["status"] in ("ok", "unsupported"), row
    if row["status"] == "ok":
        samples = row["samples_s"]
        assert [len(steps) for steps in samples["step"]] == [4] * len(samples["total"])
        parts = ("encode", "denoise", "decode", "rest", "device")
        stages = zip(*(samples[name] for name in parts), strict=True)
        for *parts, device in stages:
            assert sum(parts) == pytest.approx(device, rel=0.03)


@pytest.mark.proves("profile", name=("eager", "low-vram"), weights="random")
@pytest.mark.fullsize
def test_low_vram_peaks_below_eager_and_below_all_weights_together(rows):
    eager, low = (rows(profile, "koala-700m")["memory_bytes"] for profile in ("eager", "low-vram"))
    assert low["peak_allocated"] < eager["peak_allocated"]
    assert low["peak_allocated"] < low["weights"]


@pytest.mark.proves("profile", param="profile", weights="random")
@pytest.mark.fullsize
@pytest.mark.parametrize("profile", ["fp16-fix", "tiny-vae"])
def test_another_autoencoder_decodes_sdxl_in_fp16_with_less_memory_and_time(rows, profile):
    eager, other = rows("eager", "sdxl"), rows(profile, "sdxl")
    assert (eager["decode_dtype"], other["decode_dtype"]) == ("fp32", "fp16")
    assert other["memory_bytes"]["peak_allocated"] < eager["memory_bytes"]["peak_allocated"]
    assert min(other["samples_s"]["decode"]) < min(eager["samples_s"]["decode"])


@pytest.mark.proves("profile", param="profile", weights="random", size="toy")
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("profile", "most"), [("compiled", 0.05), ("low-vram", 1e-3), ("int8", 0.2), ("fp8", 0.5)])
def test_latents_of_a_profile_stay_near_those_of_eager(profile, most):
    model = "tiny-koala-700m"
    expected = latents_of(sampler_of(model), [7, 8])
    found = latents_of(sampler_of(model, profile=possible(model, profile)), [7, 8])
    assert found.isfinite().all()
    assert difference(found, expected) < most
    assert difference(latents_of(sampler_of(model), [9, 10]), expected) > 2 * most, "other seeds are further away"


@pytest.mark.parametrize("profile", ["int8", "fp8"])
def test_quantised_weights_take_less_of_the_gpu(profile):
    taken = {}
    for name in ("eager", possible("sdxl", profile)):
        before = torch.cuda.memory_allocated(CUDA)
        sampler = sampler_of("sdxl", profile=name)
        torch.cuda.empty_cache()
        taken[name] = torch.cuda.memory_allocated(CUDA) - before
        del sampler
    assert taken[profile] < 0.8 * taken["eager"]


@pytest.mark.parametrize("model", ["tiny-koala-lightning-700m", "tiny-sdxl-turbo", "tiny-sdm-v2.0"])
def test_an_image_of_a_batch_is_the_image_alone_on_a_gpu(model, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)  # which 25 guided steps would make visible
    sampler = sampler_of(model, "fp32")
    steps = zoo.get(model).recipe.steps
    together = latents_of(sampler, [7, 8], steps)
    alone = latents_of(sampler, [7], steps)
    assert difference(together[:1], alone) < 1e-3
    assert difference(together[1:], alone) > 0.1


@pytest.mark.fullsize
def test_a_full_size_image_is_the_same_alone_and_in_a_batch():
    sampler = sampler_of("koala-700m")
    together = latents_of(sampler, [7, 8], resolution=512)
    alone = latents_of(sampler, [7], resolution=512)
    assert difference(together[:1], alone) < 0.02
    assert difference(together[1:], alone) > 0.1
