from collections import Counter
from dataclasses import replace
from functools import cache
from math import prod

import pytest
import trained_runs

from koala.distill import memory, runs
from koala.distill.plan import plan
from koala.errors import KoalaError
from koala.models import zoo
from koala.models.inherit import unet_shapes

# With every kept layer's self-attention: 30 and 21 pairs (KOALA), and the last features of the outermost stages.
PAIRS = {
    "koala-1b-base": 32,
    "koala-700m-lightning": 23,
    "bk-sdm-base": 8,
    "bk-sdm-small": 8,
    "bk-sdm-tiny": 6,
    "bk-sdm-v2-tiny": 6,
    "bk-sdxl": 6,
    "segmind-small-sd": 9,
    "segmind-tiny-sd": 6,
    "lora": 0,
}


def uncounted(found):
    """The plan as if its activations, which take seconds to count, were 3 GiB."""
    vars(found)["activation_bytes"] = 3 * 2**30
    return found


@cache
def tiny_plan(name):
    return plan(runs.get(f"tiny-{name}"))


@pytest.fixture(scope="module")
def koala_700m():
    return plan(runs.get("koala-700m-base"), 4)


def test_the_plan_has_the_papers_numbers(koala_700m):
    assert (koala_700m.student_params, koala_700m.teacher_params) == (782_822_724, 2_567_463_684)
    assert (koala_700m.inherited, koala_700m.fresh) == (len(unet_shapes(zoo.get("koala-700m").unet)), 0)
    assert koala_700m.pairs == Counter({"DW-1": 1, "DW-2": 2, "DW-3": 5, "UP-1": 10, "UP-2": 4, "UP-3": 1})
    assert (koala_700m.global_batch, koala_700m.run.accumulation) == (128, 4)
    assert koala_700m.images_seen == 12_800_000


def test_memory_counts_each_kind_of_tensor_once(koala_700m):
    student, teacher = 782_822_724, 2_567_463_684
    assert koala_700m.memory_bytes == {
        "weights": 4 * student,
        "gradients": 4 * student,
        "optimizer": 8 * student,
        "teacher": 2 * teacher,
        "copies in half precision": 2 * student,
    }
    assert koala_700m.checkpoint_bytes == 12 * student


def test_the_text_says_it_all_and_what_is_unverified(koala_700m):
    text = koala_700m.text()
    lines = dict(line.split(": ", 1) for line in text.split("\nnotes:")[0].splitlines())
    assert lines["batch"] == "128 images = 8 x 4 accumulated x 4 processes"
    assert lines["steps"] == "100,000, 12,800,000 images seen"
    assert lines["tensors"].endswith(" inherited, 0 fresh")
    assert lines["data"] == "none is named yet (--data)"
    assert lines["activations"].startswith("about ") and "without gradient checkpointing" in lines["activations"]
    sharded = (4 + 4 + 8 + 2) * 782_822_724 / 4 + 2 * 2_567_463_684
    assert lines["memory when sharded"] == f"{sharded / 2**30:.3g} GiB a process (FSDP), all but the teacher"
    assert all(note in text for note in runs.get("koala-700m-base").notes)


@pytest.mark.parametrize("name", PAIRS)
def test_every_run_compares_as_many_pairs_as_its_paper(name):
    assert sum(tiny_plan(name).pairs.values()) == PAIRS[name]


@pytest.mark.parametrize("name", runs.names())
def test_every_tiny_run_has_a_plan_without_any_weights(name):
    found = tiny_plan(name)
    assert found.student_params == sum(map(prod, unet_shapes(zoo.get(found.run.student).unet).values()))
    assert uncounted(found).text()


def test_of_a_lora_run_only_the_adapters_are_trained():
    found = plan(trained_runs.run("tiny-lora", lora_rank=2, lora_targets=("to_q",)))
    shapes = {key: shape for key, shape in unet_shapes(zoo.get("tiny-koala-700m").unet).items() if "to_q.w" in key}
    assert found.trained_params == sum(2 * sum(shape) for shape in shapes.values())
    assert found.memory_bytes["optimizer"] == 8 * found.trained_params
    assert found.memory_bytes["weights"] == 4 * (found.student_params + found.trained_params)


def test_epochs_are_counted_once_the_data_is_there(tmp_path):
    data = trained_runs.cache(tmp_path / "cache", 5)
    found = uncounted(plan(trained_runs.run(data=str(data), steps=10, batch_size=2)))
    assert "data: 5 images, 4 epochs" in found.text()
    elsewhere = replace(found, run=replace(found.run, data="elsewhere"), images=None)
    assert "data: elsewhere, not counted" in uncounted(elsewhere).text()


def test_what_lpips_takes_is_not_counted_and_the_plan_says_so():
    run = runs.get("tiny-dmd2-sdxl-1step-pretrain")
    assert "neither LPIPS" not in uncounted(plan(run)).text()
    assert "neither LPIPS nor its images are counted" in uncounted(plan(replace(run, lpips="weights"))).text()


def test_what_else_is_held_is_counted_with_it():
    run = trained_runs.run()
    plain = plan(run).memory_bytes
    assert plan(replace(run, ema_decay=0.9)).memory_bytes["average"] == plain["weights"]
    assert plan(replace(run, optimizer="adamw8bit")).memory_bytes["optimizer"] == plain["optimizer"] // 4
    assert plan(replace(run, on_the_fly=True)).memory_bytes.keys() - plain.keys() == {"text encoders and autoencoder"}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"student": "tiny-koala-70m"}, "did you mean"),
        ({"teacher": "tiny-sdm-v1.4"}, "cannot teach"),
        ({"teacher": "tiny-segmind-vega"}, "cannot start from this teacher"),
        ({"teacher": "", "student_weights": "random"}, "no --teacher to compare"),
        ({"lora_rank": 4}, "adapters go onto weights that others have too"),
        ({"lora_rank": 4, "student_weights": "random", "lora_text": True, "on_the_fly": True}, "and no teacher"),
        ({"student": "tiny-bk-sdm-v2-tiny", "teacher": "tiny-sdm-v2.0", "features": ()}, "predicts epsilon and cannot"),
        ({"resolution": 100}, "multiples of 8"),
        ({"global_batch": 7, "batch_size": 2}, "no multiple of --batch-size"),
        ({"student": "some/folder"}, "there is no folder"),
    ],
)
def test_what_does_not_go_together_is_said_before_anything_is_loaded(changes, said):
    with pytest.raises(KoalaError, match=said):
        plan(trained_runs.run(**changes))


def test_text_encoders_are_trained_on_the_fly_only():
    with pytest.raises(KoalaError, match="--lora-text needs"):
        plan(trained_runs.run("tiny-lora", lora_text=True))
    found = plan(trained_runs.run("tiny-lora", lora_text=True, on_the_fly=True))
    assert found.trained_params > plan(trained_runs.run("tiny-lora")).trained_params


# ---- few steps


def test_the_three_networks_of_dmd2_are_counted_each_with_what_trains_it():
    found = plan(runs.get("dmd2-koala-700m-4step"))
    generator, teacher = 782_822_724, 2_567_463_684
    critic = generator + 4 * (16 * 1280**2 + 1280) + 4 * 2 * 1280 + 1281  # its head judges 1280 x 32 x 32
    assert found.critic_params == critic
    assert found.memory_bytes == {
        "weights": 4 * generator,
        "gradients": 4 * generator,
        "optimizer": 8 * generator,
        "critic": 4 * critic,
        "gradients of the critic": 4 * critic,
        "optimizer of the critic": 8 * critic,
        "teacher": 2 * teacher,
        "copies in half precision": 2 * (generator + critic),
    }
    assert found.checkpoint_bytes == 12 * (generator + critic)
    text = uncounted(found).text()
    assert "generator: 4 steps (999, 749, 499, 249), the generator learns at every 5th step" in text
    assert "matching 1, GAN 0.005, in the critic's 0.01; guidance 8" in text
    assert "with gradient checkpointing" in text


def test_the_gpus_that_are_visible_are_told_whether_they_fit(monkeypatch):
    cards = [memory.Card("A", 80 * 2**30), memory.Card("A", 80 * 2**30), memory.Card("B", 24 * 2**30)]
    monkeypatch.setattr(memory, "visible_cards", lambda: [*cards, memory.Card("C", 2**30)])
    text = uncounted(plan(runs.get("dmd2-koala-700m-4step"), 4)).text()
    assert "GPUs: A, 80 GiB: fits; B, 24 GiB: fits sharded alone (FSDP); C, 1 GiB: does not fit" in text


def test_pretraining_on_pairs_has_no_critic():
    found = plan(runs.get("dmd2-sdxl-1step-pretrain"))
    assert found.critic_params == 0 and "critic" not in found.memory_bytes


@pytest.mark.parametrize(("n", "word"), [(1, "1st"), (2, "2nd"), (3, "3rd"), (5, "5th"), (11, "11th"), (22, "22nd")])
def test_a_ratio_is_told_as_a_word(n, word):
    found = uncounted(plan(replace(runs.get("tiny-dmd2-koala-700m-4step"), ratio=n)))
    assert f"at every {word} step" in found.text()
