import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from eval.sources import Item
from eval.toyclip.captions import Caption, captioned, unlike_in
from eval.toyclip.heads import Pairs, info_nce, rate, trained
from eval.toyclip.retrieval import own_is_nearest, retrieval, told_apart
from koala.errors import KoalaError, UnknownName


def unit(n, dim, seed):
    return F.normalize(torch.randn(n, dim, generator=torch.Generator().manual_seed(seed)), dim=1)


def pairs(n=40, sizes=2):
    """Each image has a direction of its own, seen twice with some noise, and two captions."""
    seen, noise = unit(n, 32, 0), torch.randn(sizes, n, 32, generator=torch.Generator().manual_seed(1))
    return Pairs(seen + 0.02 * noise, unit(2 * n, 16, 2), [[2 * i, 2 * i + 1] for i in range(n)])


def test_the_loss_is_that_of_every_pair_spelled_out():
    images, texts, scale = unit(5, 8, 0), unit(5, 8, 1), 7.0
    total = 0.0
    for i in range(5):
        alike = math.exp(scale * float(images[i] @ texts[i]))
        of_image = sum(math.exp(scale * float(images[i] @ texts[j])) for j in range(5))
        of_text = sum(math.exp(scale * float(images[j] @ texts[i])) for j in range(5))
        total -= math.log(alike / of_image) + math.log(alike / of_text)
    assert info_nce(images, texts, torch.tensor(scale)).item() == pytest.approx(total / 10, rel=1e-5)


def test_pairs_are_learnt_within_a_few_steps():
    given = pairs()
    heads = trained(given, steps=60, seed=0)
    for seen in given.images:
        said = heads.text(given.texts[::2])
        assert (heads.image(seen) @ said.T).argmax(dim=1).tolist() == list(range(40))
    assert heads.log_scale > math.log(1 / 0.07)  # learnt too


def test_one_seed_gives_one_result_and_leaves_the_random_numbers_of_others_alone():
    torch.manual_seed(5)
    one = trained(pairs(), steps=3, seed=0).state_dict()
    after = torch.rand(1)
    torch.manual_seed(6)
    again, other = (trained(pairs(), steps=3, seed=seed).state_dict() for seed in (0, 1))
    torch.manual_seed(5)
    assert torch.equal(torch.rand(1), after)
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not torch.equal(one["image.last.weight"], other["image.last.weight"])


def test_a_batch_holds_an_image_once_at_any_size_with_any_caption_of_its_own():
    images = torch.arange(6.0)[None, :, None] + torch.tensor([0.0, 100.0])[:, None, None]
    given = Pairs(images, torch.arange(12.0)[:, None], [[2 * i, 2 * i + 1] for i in range(6)])
    random, kinds = torch.Generator().manual_seed(0), set()
    for _ in range(20):
        seen, said = given.batch(4, random)
        assert (said[:, 0] // 2).tolist() == (seen[:, 0] % 100).tolist() and len(set(said[:, 0].tolist())) == 4
        kinds |= {
            (image >= 100, text % 2) for image, text in zip(seen[:, 0].tolist(), said[:, 0].tolist(), strict=True)
        }
    assert len(kinds) == 4


def test_the_rate_rises_and_then_falls_to_nothing():
    rates = [rate(step, 100) for step in range(100)]
    assert rates[0] == 0.2 and max(rates) > 0.98 and rates[5:] == sorted(rates[5:], reverse=True) and rates[-1] < 0.01
    assert rate(0, 1) == 1


def test_the_nearest_is_alone_and_a_caption_that_is_none_has_no_answer():
    cosines = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.5, 0.5], [0.3, 0.2]])
    right = own_is_nearest(cosines, torch.tensor([0, 0, 0, -1]))
    assert right[:3].tolist() == [1, 0, 0] and right[3].isnan()


COMBINED = [Caption(f"{c} {s}", {"colour": c, "shape": s}) for c in ("red", "blue") for s in ("disc", "bar")]


def test_captions_that_differ_in_one_part_alone_are_told_apart():
    captions = [*COMBINED, Caption("copyright"), Caption("green ring", {"colour": "green", "shape": "ring"})]
    groups = unlike_in("colour", captions)
    assert groups == {"red disc": [0, 2], "blue disc": [0, 2], "red bar": [1, 3], "blue bar": [1, 3]}
    # A red disc that is nearest to "red bar": its colour is right, its shape is not.
    cosines = torch.tensor([[0.5, 0.9, 0.1, 0.95, 0.0, 0.0]] * 3)
    own = [0, 4, -1]
    assert told_apart(cosines, own, "colour", captions)[0] == 1
    assert told_apart(cosines, own, "shape", captions)[0] == 0
    assert told_apart(cosines, own, "shape", captions)[1:].isnan().all()
    assert told_apart(cosines, own, "tone", captions).isnan().all()


def test_retrieval_is_among_all_images_and_captions():
    texts = torch.eye(4)
    images = texts[[0, 1, 2, 3, 1]].clone()
    images[3] = texts[2]  # a blue bar that looks like a blue disc
    found = retrieval(images, texts, [0, 1, 2, 3, 1], [1, 3, 4], COMBINED)
    assert found["text to image"] == pytest.approx(2 / 3) and found["image to text"] == pytest.approx(2 / 3)
    assert found["shape"] == pytest.approx(2 / 3) and set(found) == {
        "text to image",
        "image to text",
        "colour",
        "shape",
    }


def item(text, **tags):
    return Item(Path(), f"{text}.png", prompt=text, tags=tags)


def test_an_image_is_learnt_from_its_text_and_its_rich_caption_or_from_the_columns_named(tmp_path):
    items = [item("a", rich="a!", long="a?", tone="light"), item("b")]
    one, two = captioned(tmp_path, items, ())
    assert one.captions == ("a", "a!") and two.captions == ("b",)
    assert one.short == Caption("a", {"tone": "light"})
    assert [each.captions for each in captioned(tmp_path, items, ("long",))] == [("a?",), ("b",)]
    with pytest.raises(UnknownName, match=r"unknown column of captions in .*'lnog'.*did you mean 'long'"):
        captioned(tmp_path, items, ("lnog",))
    with pytest.raises(KoalaError, match=r"1 of the 2 images of .* have no caption: c.png"):
        captioned(tmp_path, [items[0], Item(Path(), "c.png")], ())
