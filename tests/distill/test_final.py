import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import trained_runs
from diffusers import DiffusionPipeline, StableDiffusionXLPipeline, UNet2DConditionModel
from safetensors import SafetensorError, safe_open

from koala.distill import final
from koala.distill.assemble import Assembly, models_of, student_unet
from koala.distill.config import read_run
from koala.distill.model_card import Ending
from koala.errors import KoalaError
from koala.harness.files import sha256_of
from koala.models import zoo
from koala.models.load import load
from koala.sampling.pipelines import diffusers_pipeline
from koala.sampling.sampler import Sampler

ENDING = Ending(steps=2, global_batch=1, processes=1, losses={"total": 1.0})


def assembled(run):
    """What `assemble` returns, without data and objective, which the final folder does not need."""
    models = models_of(run)
    return SimpleNamespace(models=models, unet=student_unet(run, models), conditioner=None), models


def write(run, seed=1, **options):
    made, models = assembled(run)
    torch.manual_seed(seed)
    weights = {key: value + 0.01 * torch.randn_like(value) for key, value in made.unet.state_dict().items()}
    made = Assembly(models, made.unet, None, _Nothing(), _Nothing(), "")
    return final.write_final(run, made, weights, ENDING, **options), weights


class _Nothing:
    """An objective and examples that nobody asks for anything."""

    def __init__(self):
        self.trained = {}

    def turns(self, step): ...

    def terms(self, network, batch): ...

    def __len__(self): ...

    def batch(self, indices, positions): ...

    def empty(self): ...


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A final folder, its run and the weights it was given."""
    run = trained_runs.run(out=tmp_path_factory.mktemp("runs") / "mine")
    return *write(run), run


def test_the_folder_loads_in_diffusers_and_draws_what_our_sampler_draws(trained):
    folder, _, _ = trained
    pipeline = DiffusionPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    assert isinstance(pipeline, StableDiffusionXLPipeline)
    spec = zoo.get(str(folder))
    steps = {"num_inference_steps": 3, "guidance_scale": spec.recipe.guidance}
    theirs = pipeline("a cat", generator=torch.Generator().manual_seed(7), output_type="np", **steps).images
    sampler = Sampler(load(spec, "cpu", weights=str(folder)))
    ours = sampler.sample(["a cat"], [7], recipe=replace(spec.recipe, steps=3)).numpy()
    assert np.abs((theirs * 255).round() - ours).max() <= 1


def test_the_unet_holds_the_weights_to_the_bit(trained):
    folder, weights, _ = trained
    with safe_open(folder / "unet" / "diffusion_pytorch_model.safetensors", "pt") as file:
        assert set(file.keys()) == set(weights)
        assert all(torch.equal(file.get_tensor(key), tensor) for key, tensor in weights.items())


def test_koala_json_tells_the_model_apart(trained):
    folder, _, run = trained
    told = json.loads((folder / "koala.json").read_text())
    assert (told["base"], told["name"], told["frozen"]) == (run.student, "mine", run.teacher)
    assert told["digest"] == sha256_of(folder / "unet" / "diffusion_pytorch_model.safetensors")
    assert (told["steps"], told["losses"]) == (2, {"total": 1.0})
    assert zoo.get(str(folder)).name == f"tiny-mine@{told['digest'][:8]}"


def test_it_decodes_as_the_teacher_whose_autoencoder_it_has_decodes(trained):
    folder, _, run = trained
    spec = zoo.get(str(folder))
    assert spec.autoencoder == zoo.get(run.teacher).autoencoder != zoo.get(run.student).autoencoder
    assert load(spec, "cpu", weights="hub", parts=("autoencoder",)).spec.autoencoder.upcast_to_fp32


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"digest": None}, "digest of another type"),
        ({"name": 3, "resolution": "64"}, "name, resolution of another type"),
        ({"base": "./here"}, "not like an entry of the zoo"),
        ({"recipe": 3}, "no attribute"),
    ],
)
def test_a_damaged_koala_json_is_told(trained, tmp_path, changes, said):
    told = json.loads((trained[0] / "koala.json").read_text())
    (tmp_path / "koala.json").write_text(json.dumps(told | changes))
    with pytest.raises(KoalaError, match=f"koala.json is damaged: .*{said}"):
        zoo.get(str(tmp_path))


def test_run_and_card_lie_beside_it(trained):
    folder, _, run = trained
    assert read_run(folder / "run.json") == run
    assert "**Random weights.**" in (folder / "README.md").read_text()
    assert not list(folder.parent.glob(".*"))


def test_other_resolutions_than_the_models_own_are_kept(tmp_path):
    run = trained_runs.run(resolution=64, out=tmp_path / "small")
    folder, _ = write(run)
    assert zoo.get(str(folder)).resolution == 64
    assert UNet2DConditionModel.load_config(folder / "unet")["sample_size"] == 8


def test_an_earlier_result_of_fewer_steps_is_kept_beside_the_new_one(tmp_path):
    run = trained_runs.run(out=tmp_path / "mine")
    first, _ = write(run)
    more = replace(run, steps=3)
    assert final.finished(run) == first
    assert final.finished(more) is None
    second, _ = write(more, seed=2)
    assert second == first
    kept = first.with_name("final-000002")
    assert zoo.get(str(kept)).name != zoo.get(str(second)).name
    (tmp_path / "mine" / "final-000003").mkdir()
    with pytest.raises(KoalaError, match="in the way"):
        final.set_aside(second)


def test_the_unet_alone_is_written_where_the_other_networks_are_not_here(tmp_path):
    teacher = load(zoo.get("tiny-sdxl"), "cpu", parts=("unet",)).unet
    teacher.save_pretrained(tmp_path / "teacher")
    run = trained_runs.run(teacher_weights=str(tmp_path / "teacher"), out=tmp_path / "mine")
    folder, weights = write(run)
    assert torch.equal(UNet2DConditionModel.from_pretrained(folder).conv_in.weight, weights["conv_in.weight"])
    assert "**The U-Net only.** no weights of tiny-sdxl were released" in (folder / "README.md").read_text()
    unet = load(zoo.get(str(folder)), "cpu", weights=str(folder), parts=("unet",)).unet
    assert torch.equal(unet.conv_in.weight, weights["conv_in.weight"])


def test_an_adapter_is_written_as_diffusers_reads_it(tmp_path):
    run = trained_runs.run("tiny-lora", lora_rank=2, out=tmp_path / "mine")
    made, models = assembled(run)
    for name, parameter in made.unet.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    made = Assembly(models, made.unet, None, _Nothing(), _Nothing(), "")
    folder = final.write_final(run, made, {}, ENDING)
    with pytest.raises(KoalaError, match=r"--lora .*final"):
        zoo.get(str(folder))
    plain = load(models.student, "cpu", weights="random")
    pipeline = diffusers_pipeline(plain)
    pipeline.load_lora_weights(folder)
    inputs = torch.randn(1, 4, 16, 16), 10, torch.randn(1, 77, 64)
    added = {"text_embeds": torch.randn(1, 32), "time_ids": torch.zeros(1, 6)}
    with torch.no_grad():
        theirs, ours = (unet.eval()(*inputs, added_cond_kwargs=added).sample for unet in (pipeline.unet, made.unet))
    torch.testing.assert_close(theirs, ours, atol=1e-5, rtol=1e-4)


def test_a_model_that_began_as_a_trained_one_is_still_built_like_the_zoos(trained, tmp_path):
    folder, _, _ = trained
    run = trained_runs.run(
        student=str(folder),
        teacher="",
        features=(),
        student_weights="hub",
        teacher_weights="hub",
        out=tmp_path / "next",
    )
    made, _ = assembled(run)
    torch.testing.assert_close(made.unet.state_dict(), trained[1])
    again, _ = write(run)
    told = json.loads((again / "koala.json").read_text())
    assert (told["base"], told["frozen"]) == ("tiny-koala-700m", "tiny-sdxl")
    assert DiffusionPipeline.from_pretrained(again) is not None


def test_a_full_disk_is_told_and_leaves_no_final_folder(tmp_path, monkeypatch):
    def fill_up(*_, **__):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(UNet2DConditionModel, "save_pretrained", fill_up)
    with pytest.raises(KoalaError, match=r"cannot write .*mine/final: .*No space left"):
        write(trained_runs.run(out=tmp_path / "mine"))
    assert not list((tmp_path / "mine").iterdir())


def test_a_kill_while_it_is_written_leaves_no_final_folder(tmp_path):
    run = trained_runs.run(out=tmp_path / "mine")

    def fail(path):
        raise KoalaError("no picture")

    with pytest.raises(KoalaError, match="no picture"):
        write(run, curve=fail)
    assert not list((tmp_path / "mine").iterdir())
