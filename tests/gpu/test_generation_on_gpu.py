"""Images of a suite on a GPU: the same to the bit however the work is shared, and in fp16."""

import pytest
import torch

from eval import suites
from eval.generation.pictures import pictures
from koala.models import zoo
from koala.sampling import profiles
from koala.sampling.gallery import Gallery
from koala.sampling.job import Model, Settings, batches, draw_batches

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")]


@pytest.mark.parametrize("dtype", ["fp16", "fp32"])
def test_shares_of_the_work_are_the_same_images_to_the_bit(tmp_path, dtype):
    spec = zoo.get("tiny-koala-700m")
    settings = Settings(spec, spec.recipe, "random", profiles.EAGER, "cuda", dtype, 128, 128)
    todo = pictures(suites.limited(suites.load("koala-core"), 7), 2, 0)
    found = {}
    for ranks in (1, 2, 3):
        folder = tmp_path / str(ranks)
        for rank in range(ranks):
            model = Model(settings, [picture.prompt for picture in todo])
            with Gallery(folder, rank if ranks > 1 else None) as gallery:
                share = batches(todo, todo, 4, rank, ranks)
                assert len(list(draw_batches(model, settings, share, todo, gallery))) > 0
        found[ranks] = {path.name: path.read_bytes() for path in folder.glob("0*.png")}
        assert len(found[ranks]) == len(todo)
    assert found[1] == found[2] == found[3]
