from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import trained_runs
from PIL import Image

from koala.distill import grids
from koala.distill.assemble import models_of, student_unet
from koala.distill.batch import Batch
from koala.errors import KoalaError
from koala.models import zoo
from koala.models.conditioning import random_condition
from koala.models.load import load
from koala.sampling.sampler import Sampler

PROMPTS = ("a red cat", "a blue dog")


class Captions:
    """Examples of which only the captions matter."""

    def __init__(self, *captions):
        self.captions = captions

    def __len__(self):
        return len(self.captions)

    def batch(self, indices, positions):
        condition = random_condition(zoo.get(trained_runs.STUDENT), len(indices), torch.float32, torch.device("cpu"))
        captions = tuple(self.captions[i] for i in indices)
        return Batch(torch.zeros(len(indices), 4, 2, 2), condition, None, tuple(positions), captions, captions)

    def empty(self): ...


def opened(examples=None, **changes):
    run = trained_runs.run(sample_every=1, sample_prompts=PROMPTS, **changes)
    said = []
    models = models_of(run)
    models = replace(models, student=replace(models.student, recipe=replace(models.student.recipe, steps=2)))
    return grids.open_grids(run, models, examples or Captions("a"), said.append), run, models, said


@pytest.fixture(scope="module")
def drawing():
    found, run, models, _ = opened()
    return found, student_unet(run, models), models


def test_each_picture_is_what_the_sampler_draws_of_its_prompt(drawing):
    found, unet, models = drawing
    frozen = load(models.frozen, "cpu", parts=("text", "autoencoder"))
    sampler = Sampler(replace(frozen, spec=models.student, unet=unet))
    expected = np.concatenate([sampler.sample([prompt], [0]).numpy() for prompt in PROMPTS])
    differences = np.abs(found.images(unet).astype(int) - expected)
    assert differences.max() <= 1  # all prompts were encoded together
    assert not np.array_equal(expected[0], expected[1])


@pytest.mark.parametrize("training", [True, False])
def test_the_unet_and_torchs_generators_stay_as_they_were(drawing, training):
    found, unet, _ = drawing
    unet.train(training).requires_grad_(True)
    before, state = {k: v.clone() for k, v in unet.state_dict().items()}, torch.get_rng_state()
    first = found.images(unet)
    assert torch.equal(torch.get_rng_state(), state)
    assert unet.training == training
    assert all(p.requires_grad and p.grad is None for p in unet.parameters())
    assert all(torch.equal(tensor, before[key]) for key, tensor in unet.state_dict().items())
    assert np.array_equal(found.images(unet), first)


def test_training_goes_on_after_a_grid(drawing):
    found, unet, models = drawing
    unet.train().requires_grad_(True)
    found.images(unet)
    condition = random_condition(models.student, 1, torch.float32, torch.device("cpu"))
    sizes = torch.zeros(1, 6)
    unet(torch.randn(1, 4, 16, 16), 3, **condition.unet_arguments(sizes)).sample.mean().backward()
    assert all(p.grad is not None for p in unet.parameters())
    unet.zero_grad()


def test_pictures_are_decoded_in_fp32_though_the_unet_runs_in_half_precision():
    found, run, models, _ = opened(precision="bf16")
    unet, dtypes = student_unet(run, models), {}
    for name, part in (("unet", unet), ("autoencoder", found._parts.autoencoder)):
        for convolution in (m for m in part.modules() if isinstance(m, torch.nn.Conv2d)):
            convolution.register_forward_hook(
                lambda m, i, out, name=name: dtypes.setdefault(name, set()).add(out.dtype)
            )
    found.images(unet)
    assert dtypes == {"unet": {torch.bfloat16}, "autoencoder": {torch.float32}}


def test_a_folder_that_cannot_be_written_is_an_error(drawing, tmp_path):
    found, *_ = drawing
    (tmp_path / "samples").write_text("in the way")
    with pytest.raises(KoalaError, match="cannot write the samples of step 3"):
        found.write(np.zeros((2, 8, 8, 3), np.uint8), 3, tmp_path / "samples")


def test_the_sheet_is_named_by_its_step(drawing, tmp_path):
    found, unet, _ = drawing
    path = found.write(found.images(unet), 100, tmp_path / "samples")
    assert path == tmp_path / "samples" / "step-000100.png"
    with Image.open(path) as sheet:
        assert sheet.width > 2 * 256
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_a_run_may_want_none():
    run = trained_runs.run()
    assert grids.open_grids(run, models_of(run), Captions("a"), print) is None


def test_what_is_not_here_is_said_once_and_left_out(tmp_path):
    load(zoo.get("tiny-sdxl"), "cpu", parts=("unet",)).unet.save_pretrained(tmp_path)
    found, *_, said = opened(teacher_weights=str(tmp_path))
    assert found is None
    (line,) = said
    assert line.startswith("no sample grids: no weights of tiny-sdxl were released")


def test_prompts_are_captions_of_the_data_by_default():
    assert grids.captions_of(Captions("a cat", "", "a dog", "a cat", "x", "y", "z")) == ("a cat", "a dog", "x", "y")
    assert grids.captions_of(Captions("", "")) == ("",)


def test_a_guided_recipe_takes_both_rows_of_a_prompt(drawing):
    found, _, models = drawing
    condition = found._condition
    assert models.student.recipe.guided
    assert len(condition.context) == 2 * len(PROMPTS)
    rows = grids._rows(condition, 1, len(PROMPTS))
    assert torch.equal(rows.context, condition.context[[1, 3]])


def test_trackers_that_take_pictures_get_them():
    class Tracker(SimpleNamespace):
        def log_images(self, values, step, **options):
            self.got = (values["samples"].shape, step, options)

    board, other, plain = Tracker(name="tensorboard"), Tracker(name="wandb"), SimpleNamespace(name="csv")
    grids.track([board, other, plain], np.zeros((2, 8, 8, 3), np.uint8), 5)
    assert board.got == ((2, 8, 8, 3), 5, {"dataformats": "NHWC"})
    assert other.got == ((2, 8, 8, 3), 5, {})
