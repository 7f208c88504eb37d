import re

import pytest
import torch

from koala.models import zoo
from koala.models.anatomy import KINDS, LAYER_PARTS, WORK, lowest_stages, stage_of, stages
from koala.models.networks import count_params
from koala.models.spec import ADM
from koala.models.unet import build_unet


def plans():
    """The name of one model of each topology, and of a few twins."""
    names = [*zoo.names(), "tiny-koala-700m", "tiny-bk-sdm-tiny", "tiny-ssd-1b"]
    return list({zoo.get(name).unet: name for name in reversed(names)}.values())


def built_modules(plan):
    with torch.device("meta"):
        return dict(build_unet(plan).named_modules())


@pytest.mark.parametrize("name", plans())
def test_every_path_exists_and_every_part_of_the_u_net_is_named_once(name):
    plan = zoo.get(name).unet
    modules = built_modules(plan)
    named = {kind: [path for stage in stages(plan) for path in stage.modules(kind)] for kind in KINDS}
    assert {path for paths in named.values() for path in paths} <= modules.keys()
    for kind, part in LAYER_PARTS.items():  # in the order in which they run, which is not quite that of the names
        inside = r"attentions\.\d+" if plan.blocks == ADM and kind == "SA" else rf"transformer_blocks\.\d+\.{part}"
        assert sorted(named[kind]) == sorted(path for path in modules if re.fullmatch(rf".+\.{inside}", path))
    assert sorted(named["Res"]) == sorted(path for path in modules if re.fullmatch(r".+\.resnets\.\d+", path))
    assert sorted(named["LF"]) == sorted(path for path in modules if re.fullmatch(r"\w+_blocks\.\d|mid_block", path))


@pytest.mark.parametrize("name", plans())
def test_the_work_of_a_stage_is_all_of_it_but_norms_and_projections_of_transformers(name):
    plan = zoo.get(name).unet
    modules = built_modules(plan)
    for stage in stages(plan):
        assert list(stage.work) == list(WORK)
        paths = [path for found in stage.work.values() for path in found]
        assert len(paths) == len(set(paths))
        outside = {
            path.removeprefix(f"{stage.path}.")
            for path, module in modules.items()
            if path.startswith(f"{stage.path}.")
            and next(module.parameters(recurse=False), None) is not None
            and not any(f"{path}.".startswith(f"{work}.") for work in paths)
        }
        beside = re.compile(r"attentions\.\d+\.(norm|proj_in|proj_out|transformer_blocks\.\d+\.norm[123])")
        assert all(beside.fullmatch(path) for path in outside)
        assert bool(outside) == (bool(stage.depths) and not stage.bare)


def test_the_lowest_transformer_stacks_hold_82_percent_of_sdxl():
    # KOALA's design begins with them (section 3.1.1, which says 83%); counted here by hand too
    plan = zoo.get("sdxl").unet
    modules = built_modules(plan)
    assert lowest_stages(plan) == ("DW-3", "Mid", "UP-1")
    stacks = [block for stage in stages(plan) if stage.name in lowest_stages(plan) for block in stage.attentions]
    width, context = 1280, 2048
    attention = 4 * width**2 + width + 2 * width**2 + 2 * width * context + width
    feed_forward = width * 8 * width + 8 * width + 4 * width * width + width
    stack = 10 * (attention + feed_forward + 3 * 2 * width) + 2 * (width**2 + width) + 2 * width
    assert len(stacks) == 6
    assert sum(count_params(modules[block]) for block in stacks) == 6 * stack
    assert 6 * stack / count_params(modules[""]) == pytest.approx(0.82, abs=0.0005)
    assert lowest_stages(zoo.get("koala-700m").unet) == ("DW-3", "UP-1")


@pytest.mark.parametrize("name", plans())
def test_a_block_has_as_many_transformer_layers_as_the_plan_says(name):
    plan = zoo.get(name).unet
    modules = built_modules(plan)
    for stage in stages(plan):
        blocks = {path: modules[path] for path in stage.attentions}
        found = {path: len(getattr(block, "transformer_blocks", "1")) for path, block in blocks.items()}
        assert found == stage.attentions


@pytest.mark.parametrize("name", ["tiny-koala-1b", "tiny-bk-sdm-tiny", "tiny-ssd-1b"])
def test_stages_and_their_modules_come_in_the_order_in_which_they_run(name):
    plan = zoo.get(name).unet
    modules, ran = built_modules(plan), []
    paths = [path for stage in stages(plan) for path in (*stage.modules("SA"), *stage.modules("LF"))]
    unet = modules[""]
    for path in paths:
        modules[path].register_forward_hook(lambda *_, path=path: ran.append(path))
    conditions = {}
    with torch.device("meta"):
        if plan.pooled_dim is not None:
            conditions = {"text_embeds": torch.empty(1, plan.pooled_dim), "time_ids": torch.empty(1, 6)}
        unet(
            torch.empty(1, 4, 16, 16), torch.zeros(1), torch.empty(1, 1, plan.context_dim), added_cond_kwargs=conditions
        )
    assert ran == paths


def test_the_papers_names_of_stages():
    def names(model):
        return [stage.name for stage in stages(zoo.get(model).unet)]

    assert names("sdxl") == ["DW-1", "DW-2", "DW-3", "Mid", "UP-1", "UP-2", "UP-3"]
    assert names("koala-700m") == ["DW-1", "DW-2", "DW-3", "UP-1", "UP-2", "UP-3"]
    assert names("sdm-v1.4") == ["DW-1", "DW-2", "DW-3", "DW-4", "Mid", "UP-1", "UP-2", "UP-3", "UP-4"]


def test_koalas_stages_without_attention_have_residual_blocks_and_a_last_feature():
    # App. B.1 of KOALA: the outermost stages have no transformers
    found = {stage.name: stage.kinds for stage in stages(zoo.get("koala-1b").unet)}
    assert [name for name, kinds in found.items() if kinds == ("Res", "LF")] == ["DW-1", "UP-3"]
    assert all(kinds == KINDS for name, kinds in found.items() if name not in ("DW-1", "UP-3"))


def test_bk_sdm_tiny_compares_the_projection_of_the_last_attention():
    # facts of BK-SDM's training code: teacher attentions.1.proj_out, student attentions.0.proj_out
    for model, block in (("sdm-v1.4", 1), ("bk-sdm-tiny", 0)):
        stage = stages(zoo.get(model).unet)[2]
        assert stage.modules("PO") == (f"down_blocks.2.attentions.{block}.proj_out",)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("down_blocks.2", "DW-3"),
        ("up_blocks.0.attentions.1.transformer_blocks.3.attn1", "UP-1"),
        ("mid_block.resnets.0", "Mid"),
        ("conv_in", "conv_in"),
        ("time_embedding.linear_1", "time_embedding"),
    ],
)
def test_a_module_belongs_to_a_stage_or_stands_for_itself(path, name):
    assert stage_of(path, zoo.get("sdxl").unet) == name
