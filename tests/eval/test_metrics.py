import json

import pytest
import torch

from eval import metrics
from eval.commands import metrics as command
from koala.errors import KoalaError, UnknownName


@pytest.mark.parametrize("name", metrics.names())
def test_every_metric_says_which_way_is_better(name):
    assert metrics.load(name).higher_is_better in (True, False, None)
    assert metrics.summary(name)


@pytest.mark.proves("metric", name="brightness", weights="none")
def test_brightness_is_the_mean_of_each_image():
    images = torch.stack([torch.full((4, 6, 3), value, dtype=torch.uint8) for value in (0, 51, 255)])
    assert metrics.load("brightness").score(images, [""] * 3).tolist() == pytest.approx([0.0, 0.2, 1.0])


def test_the_list_of_metrics_says_what_each_scores_and_needs(capsys):
    assert command.run(command.Options()) == 0
    rows = [[cell.strip() for cell in row.split("|")[1:5]] for row in capsys.readouterr().out.splitlines()]
    assert ["kid:clean", "each set", "reference images", "lower"] in rows
    assert ["lpips_diversity", "each group", "several seeds of a prompt", "higher"] in rows
    assert ["brightness", "each image", "", ""] in rows
    command.run(command.Options(json=True))
    known = {line["metric"]: line for line in json.loads(capsys.readouterr().out)}
    assert known["clip_score:mlperf"]["needs"] == "prompts" and known["brightness"]["higher is better"] is None


def test_images_of_another_layout_are_refused():
    with pytest.raises(Exception, match="Type-check error"):
        metrics.load("brightness").score(torch.zeros(1, 3, 4, 4), [""])


def test_an_unknown_metric_is_answered_with_the_known_ones():
    with pytest.raises(UnknownName, match=r"known: .*brightness.*fid"):
        metrics.load("fdi")


def test_a_metric_with_several_variants_asks_which():
    with pytest.raises(KoalaError, match="several variants; say which: fid:clean"):
        metrics.load("fid")


def test_an_unknown_variant_is_answered_with_the_known_ones():
    with pytest.raises(UnknownName, match="did you mean 'fid:clean'"):
        metrics.load("fid:claen")
