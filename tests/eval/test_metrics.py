import pytest
import torch

from eval import metrics
from koala.errors import UnknownName


@pytest.mark.parametrize("name", metrics.names())
def test_every_metric_says_which_way_is_better(name):
    assert metrics.load(name).higher_is_better in (True, False, None)
    assert metrics.summary(name)


def test_brightness_is_the_mean_of_each_image():
    images = torch.stack([torch.full((4, 6, 3), value, dtype=torch.uint8) for value in (0, 51, 255)])
    assert metrics.load("brightness").score(images, [""] * 3).tolist() == pytest.approx([0.0, 0.2, 1.0])


def test_images_of_another_layout_are_refused():
    with pytest.raises(Exception, match="Type-check error"):
        metrics.load("brightness").score(torch.zeros(1, 3, 4, 4), [""])


def test_an_unknown_metric_is_answered_with_the_known_ones():
    with pytest.raises(UnknownName, match="known: brightness"):
        metrics.load("fdi")
