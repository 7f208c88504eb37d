"""Losses and gradients that are no numbers: noticed by all, blamed on their images, left out whole or not at all."""

import pytest
import torch
from toy import ToyExamples, ToyObjective
from toy_training import kept, losses, newest_in, results, trained

from koala.distill import log
from koala.distill.data.order import index_of
from koala.distill.objective import Terms
from koala.errors import KoalaError


class Spoiled(ToyObjective):
    """Its gradient is no number at one step, though its loss is one."""

    def __init__(self, at: int):
        super().__init__()
        self.at, self.step = at, 0

    def turns(self, step):
        self.step = step
        return super().turns(step)

    def terms(self, network, batch):
        terms = super().terms(network, batch)
        if self.step != self.at:
            return terms
        bent = next(p for p in self.trained["unet"].parameters() if p.requires_grad)
        zero = (bent * 0).abs().sum().sqrt()  # the slope of the root at 0 is infinite, times 0
        return Terms(terms.total + zero, terms.parts)


BAD_STEP = 5
BAD = index_of(4 * BAD_STEP + 3, 50, 0)  # an image of that step, and of a second one only after 50 positions


def test_a_loss_that_is_no_number_stops_training_and_names_the_images(tmp_path):
    examples = ToyExamples(50, broken=[BAD])
    with pytest.raises(KoalaError, match=f"loss is no number, on 4 images: .*image-{BAD}") as error:
        trained(tmp_path, examples=examples)
    assert f"step {BAD_STEP}:" in str(error.value) and "--on-nan skip" in str(error.value)
    assert newest_in(tmp_path).step == BAD_STEP  # everything until then is kept
    assert len(losses(tmp_path)) == BAD_STEP and None not in losses(tmp_path)
    with pytest.raises(KoalaError, match=f"image-{BAD}"):
        trained(tmp_path, examples=examples)
    after = trained(tmp_path, examples=examples, on_nan="skip")
    assert after.summary.skipped == 1 and after.summary.steps == 12


def test_the_forward_pass_that_is_to_blame_is_named_alone(tmp_path):
    with pytest.raises(KoalaError, match=f"on 2 images: .*image-{BAD}"):
        trained(tmp_path, examples=ToyExamples(50, broken=[BAD]), batch_size=2, accumulation=2)


def test_a_step_is_left_out_whole_on_demand(tmp_path, capsys):
    step, broken, clean = BAD_STEP, tmp_path / "broken", tmp_path / "clean"
    trainer = trained(broken, examples=ToyExamples(50, [BAD]), on_nan="skip", save_every=1, keep=20)
    trained(clean, save_every=1, keep=20)
    assert trainer.summary.skipped == 1
    assert f"step {step} is left out: the loss is no number" in capsys.readouterr().err
    assert losses(broken)[:step] == losses(clean)[:step]
    assert losses(broken)[step] is None and None not in losses(broken)[step + 1 :]
    assert [row["skipped"] for row in results(broken)] == [0] * step + [1] * (12 - step)
    for file in ("unet", "unet.average", "unet.optimizer"):
        before, after = (kept(broken, at, file) for at in (step, step + 1))
        assert all(torch.equal(before[key], after[key]) for key in before)


def test_a_gradient_that_is_no_number_is_noticed_too(tmp_path):
    with pytest.raises(KoalaError, match="step 3: the gradient is no number, on 4 images"):
        trained(tmp_path / "stop", Spoiled(3))
    assert newest_in(tmp_path / "stop").step == 3
    trainer = trained(tmp_path / "skip", Spoiled(3), on_nan="skip")
    assert trainer.summary.skipped == 1
    assert all(value.isfinite().all() for value in trainer.weights("unet").values())


def test_weights_that_have_diverged_do_not_train_on_for_ever(tmp_path):
    with pytest.raises(KoalaError, match="101 steps in a row were left out"):
        trained(tmp_path, examples=ToyExamples(3, broken=range(3)), steps=200, on_nan="skip", log_every=50)
    assert newest_in(tmp_path).step == 100


def test_as_many_steps_that_are_left_out_here_and_there_do_no_harm(tmp_path):
    trainer = trained(tmp_path, examples=ToyExamples(2, [0]), steps=204, batch_size=1, on_nan="skip", log_every=50)
    assert trainer.summary.skipped == 102


class Large(ToyObjective):
    """Its losses are a thousand times larger, so that a loss scale of fp16 is soon too large."""

    def terms(self, network, batch):
        terms = super().terms(network, batch)
        return Terms(terms.total * 1000, {name: value * 1000 for name, value in terms.parts.items()})


def scaler():
    return torch.amp.GradScaler("cpu", init_scale=2.0**125, growth_interval=3)


def test_a_loss_scale_that_overflows_is_halved_and_its_step_left_out(tmp_path):
    scaled, plain = scaler(), tmp_path / "plain"
    trainer = trained(tmp_path / "scaled", Large(), scaler=scaled)
    rows = log.read(tmp_path / "scaled" / log.FILE)
    overflows = [row["overflows"] for row in rows]
    assert overflows[-1] > 2 and trainer.summary.skipped == 0
    assert None not in losses(tmp_path / "scaled")  # the loss itself is a number
    first = overflows.count(1) and next(i for i, n in enumerate(overflows) if i and n == overflows[i - 1])
    trained(plain, Large())
    assert losses(tmp_path / "scaled")[first] == pytest.approx(losses(plain)[0], rel=0.5)
    assert all(value.isfinite().all() for value in trainer.weights("unet").values())


def test_the_loss_scale_goes_on_after_a_break_to_the_bit(tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    trained(whole, Large(), scaler=scaler())
    trained(broken, Large(), scaler=scaler(), steps=5)
    other = scaler()
    trained(broken, Large(), scaler=other)
    assert results(broken) == results(whole)
    assert other.get_scale() < 2.0**125


def test_gradients_are_clipped_after_the_scale_is_taken_out(tmp_path):
    plain, scaled = tmp_path / "plain", tmp_path / "scaled"
    trained(plain, clip_norm=0.05)
    trained(scaled, clip_norm=0.05, scaler=torch.amp.GradScaler("cpu", init_scale=1024.0))
    for a, b in zip(results(plain), results(scaled), strict=True):
        assert b["gradient_norm"]["unet"] == pytest.approx(a["gradient_norm"]["unet"], rel=1e-5)
        assert b["losses"]["unet"]["total"] == pytest.approx(a["losses"]["unet"]["total"], rel=1e-5)
