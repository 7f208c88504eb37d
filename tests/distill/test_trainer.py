"""The loop against a plain one written out, and what it does with numbers that are none, several networks, hooks."""

import io
import math
import signal

import pytest
import torch
from diffusers.optimization import get_scheduler
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from toy import ToyExamples, ToyNetwork, ToyObjective, toy_run
from toy_training import kept, losses, newest_in, results, trained

from koala.distill import distributed, log
from koala.distill.checkpoint import FOLDER
from koala.distill.data.order import index_of
from koala.distill.distributed import tracker
from koala.distill.progress import TrainingProgress
from koala.errors import KoalaError, UnknownName


def plain_loop(run, network, examples):
    """The same training, spelled out: losses, and weights and their average at the end."""
    objective = ToyObjective(network)
    weights = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(
        weights, run.learning_rate, run.betas, run.epsilon, run.weight_decay, foreach=False, fused=False
    )
    schedule = get_scheduler(run.schedule, optimizer, None, run.warmup, run.steps)
    average, seen = [weight.detach().clone() for weight in weights], []
    for step in range(run.steps):
        positions = range(step * run.batch_size, (step + 1) * run.batch_size)
        batch = examples.batch([index_of(p, len(examples), run.seed) for p in positions], positions)
        loss = objective.terms("unet", batch).total
        optimizer.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(weights, run.clip_norm)
        rate = schedule.get_last_lr()[0]
        optimizer.step()
        schedule.step()
        decay = min(run.ema_decay, (1 + step) / (10 + step)) if step else 0.0
        for mean, weight in zip(average, weights, strict=True):
            mean.copy_(decay * mean + (1 - decay) * weight.detach())
        seen.append((loss.item(), norm.item(), rate))
    return seen, weights, average


@pytest.mark.parametrize(
    "changes", [{}, {"schedule": "cosine", "warmup": 3, "clip_norm": 0.3, "ema_decay": 0.3, "weight_decay": 0.5}]
)
def test_training_is_the_plain_loop(changes, tmp_path):
    run = toy_run(schedule="linear") if not changes else toy_run(**changes)
    network = ToyNetwork()
    trainer = trained(tmp_path, ToyObjective(network), **{"schedule": "linear", **changes})
    seen, weights, average = plain_loop(run, ToyNetwork(), ToyExamples())
    rows = results(tmp_path)
    for row, (loss, norm, rate) in zip(rows, seen, strict=True):
        assert row["losses"]["unet"]["total"] == pytest.approx(loss, abs=1e-6)
        assert row["gradient_norm"]["unet"] == pytest.approx(norm, rel=1e-5)
        assert row["learning_rate"]["unet"] == pytest.approx(rate, rel=1e-12, abs=1e-12)
    mine = [parameter for parameter in network.parameters() if parameter.requires_grad]
    for a, b in zip(mine, weights, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=0)
    for a, b in zip(trainer.weights("unet").values(), average, strict=True):
        torch.testing.assert_close(a, b.detach(), atol=1e-5, rtol=0)


@given(n=st.integers(1, 30), batch_size=st.integers(1, 5), accumulation=st.integers(1, 3), workers=st.integers(0, 2))
@settings(max_examples=8, deadline=None)
def test_every_image_comes_once_an_epoch_in_the_order_of_the_seed(
    tmp_path_factory, n, batch_size, accumulation, workers
):
    objective = ToyObjective()
    split = {"batch_size": batch_size, "accumulation": accumulation, "workers": workers}
    trained(tmp_path_factory.mktemp("order"), objective, ToyExamples(n), steps=6, seed=3, **split)
    positions = [position for _, batch in objective.seen for position in batch]
    keys = [key for batch, _ in objective.seen for key in batch]
    assert positions == list(range(6 * batch_size * accumulation))
    assert keys == [f"image-{index_of(position, n, 3)}" for position in positions]
    for epoch in range(len(keys) // n):
        assert len(set(keys[epoch * n : (epoch + 1) * n])) == n


def test_threads_that_read_ahead_change_nothing(tmp_path):
    one, many = tmp_path / "one", tmp_path / "many"
    trained(one)
    trained(many, workers=4)
    assert results(one) == results(many)


def test_the_learning_rate_does_not_depend_on_the_global_generator_and_neither_does_anything(tmp_path):
    one, other = tmp_path / "one", tmp_path / "other"
    for seed, out in enumerate((one, other)):
        torch.manual_seed(seed)
        trained(out, ToyObjective(ToyNetwork(dropout=0.5)))
    assert results(one) == results(other)


# ---- several networks


def test_a_network_learns_at_its_own_turns_and_all_go_on_after_a_break(tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    critic = ToyNetwork(seed=1)
    before = critic.first.weight.detach().clone()
    trained(whole, ToyObjective(critic=critic))
    assert not torch.equal(critic.first.weight, before)
    turns = [row["step"] for row in log.read(whole / log.FILE) if "critic" in row["losses"]]
    assert turns == [1, 4, 7, 10]
    trained(broken, ToyObjective(critic=ToyNetwork(seed=1)), steps=5)
    trained(broken, ToyObjective(critic=ToyNetwork(seed=1)))
    assert results(broken) == results(whole)
    for name in ("unet", "critic", "critic.average", "critic.optimizer"):
        theirs, mine = (newest_in(out).tensors(name) for out in (whole, broken))
        assert theirs.keys() == mine.keys() and all(torch.equal(theirs[key], mine[key]) for key in theirs)


def test_the_objective_has_its_networks_back_as_they_were_given(tmp_path):
    objective = ToyObjective()
    network, forward = objective.trained["unet"], objective.trained["unet"].forward
    trained(tmp_path, objective, precision="bf16", steps=2)
    assert objective.trained == {"unet": network}
    assert network.forward == forward
    assert all(parameter.dtype == torch.float32 for parameter in network.parameters())


# ---- options


def test_bf16_is_the_forward_pass_alone(tmp_path):
    objective = ToyObjective()
    dtypes = set()
    objective.trained["unet"].last.register_forward_hook(lambda module, inputs, output: dtypes.add(output.dtype))
    trainer = trained(tmp_path, objective, precision="bf16")
    assert dtypes == {torch.bfloat16}
    assert all(value.dtype == torch.float32 for value in trainer.weights("unet").values())
    state = newest_in(tmp_path).tensors("unet.optimizer")
    assert all(value.dtype == torch.float32 for value in state.values())


@pytest.mark.slow
def test_compiling_changes_the_numbers_little_and_the_names_not_at_all(tmp_path):
    plain, compiled = tmp_path / "plain", tmp_path / "compiled"
    trained(plain, steps=3)
    trainer = trained(compiled, steps=3, compile=True)
    assert losses(compiled) == pytest.approx(losses(plain), rel=1e-5)
    assert trainer.weights("unet").keys() == newest_in(plain).tensors("unet").keys()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"precision": "fp16"}, "fp16 needs a GPU"),
        ({"device": "cuda:1"}, "--device is auto or cpu, not cuda:1"),
        ({"gradient_checkpointing": True}, "ToyNetwork knows no --gradient-checkpointing"),
        ({"batch_size": 3, "global_batch": 6, "accumulation": 4}, "--accumulation 4 contradicts"),
    ],
)
def test_what_cannot_be_is_an_error_that_says_why(changes, message, tmp_path):
    with pytest.raises(KoalaError, match=message):
        trained(tmp_path, **changes)


def test_a_tracker_that_is_not_installed_is_an_error(monkeypatch):
    monkeypatch.setattr(distributed, "get_available_trackers", lambda: [])
    with pytest.raises(KoalaError, match="--tracker wandb needs the package wandb"):
        tracker("wandb")
    assert tracker("none") is None


def test_a_tracker_that_nobody_knows_is_an_error_with_those_that_are_known():
    with pytest.raises(UnknownName, match=r"did you mean 'tensorboard'.*none"):
        tracker("tensorbord")


def test_data_without_an_image_is_an_error(tmp_path):
    with pytest.raises(KoalaError, match="no image"):
        trained(tmp_path, examples=ToyExamples(0))


def test_samples_are_drawn_from_the_average_and_change_nothing(tmp_path):
    network, drawn = ToyNetwork(dropout=0.3), []

    def sample(step):
        torch.randn(7)  # takes from the generator that dropout draws from
        drawn.append((step, network.training, network.first.weight.detach().clone()))

    trained(tmp_path / "plain", ToyObjective(ToyNetwork(dropout=0.3)))
    trained(tmp_path / "drawn", ToyObjective(network), sample=sample, sample_every=6, save_every=6)
    assert [(step, training) for step, training, _ in drawn] == [(6, False), (12, False)]
    for step, _, weight in drawn:
        assert torch.equal(weight, kept(tmp_path / "drawn", step, "unet.average")["first.weight"])
    assert results(tmp_path / "drawn") == results(tmp_path / "plain")
    assert network.training


def test_published_weights_are_the_average_where_there_is_one(tmp_path):
    for decay, file in ((0.9, "unet.average"), (0.0, "unet")):
        out, network = tmp_path / file, ToyNetwork()
        trainer = trained(out, ToyObjective(network), ema_decay=decay)
        kept, held = newest_in(out).tensors(file), network.first.weight.detach().clone()
        with trainer.published():
            assert torch.equal(network.first.weight, kept["first.weight"])
        assert torch.equal(network.first.weight, held)
        assert all(torch.equal(value, kept[name]) for name, value in trainer.weights("unet").items())


def test_a_training_that_is_done_does_nothing_more_and_can_be_made_longer(tmp_path, capsys):
    trained(tmp_path / "twice", steps=8)
    objective = ToyObjective()
    trainer = trained(tmp_path / "twice", objective, steps=8)
    assert not objective.seen and trainer.summary.steps == 8
    trained(tmp_path / "twice")
    trained(tmp_path / "once")
    assert results(tmp_path / "twice") == results(tmp_path / "once")
    assert capsys.readouterr().out == ""


def test_the_summary_says_where_it_ended(tmp_path):
    summary = trained(tmp_path).summary
    assert (summary.steps, summary.images, summary.skipped) == (12, 48, 0)
    assert summary.checkpoint == tmp_path / FOLDER / "step-00000012" and summary.checkpoint.is_dir()
    assert summary.seconds > 0


def test_the_tracker_is_told_what_the_log_holds(tmp_path):
    trained(tmp_path, tracker="tensorboard", steps=5, log_every=2)
    trained(tmp_path, tracker="tensorboard", steps=8, log_every=2)
    events = EventAccumulator(str(tmp_path / "tracker" / "koala"))
    events.Reload()
    told = {event.step: event.value for event in events.Scalars("losses/unet/task/channel-0")}
    rows = log.read(tmp_path / log.FILE)
    assert sorted(told) == [row["step"] for row in rows] == [2, 4, 5, 6, 8]
    for row in rows:
        assert told[row["step"]] == pytest.approx(row["losses"]["unet"]["task/channel-0"])
    assert {"learning_rate/unet", "gradient_norm/unet", "images_per_s", "shares/data"} < set(events.Tags()["scalars"])


@pytest.mark.parametrize("terminal", [True, False])
def test_the_bar_is_drawn_on_a_terminal_alone(terminal):
    text = io.StringIO()
    console = Console(file=text, force_terminal=terminal, width=120)
    with TrainingProgress(total=10, done=4, console=console) as bar:
        bar.step(loss=0.125, images_per_s=34.56)
    assert ("loss 0.125, 34.6 images/s" in text.getvalue() and "5/10" in text.getvalue()) == terminal
    assert bool(text.getvalue()) == terminal


def test_signals_are_heard_by_others_again_afterwards(tmp_path):
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    trained(tmp_path, steps=1)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_a_small_network_learns(tmp_path):
    trained(tmp_path, steps=150, batch_size=16, log_every=50, save_every=150)
    first, *_, last = losses(tmp_path)
    assert last < 0.8 * first and math.isfinite(last)
