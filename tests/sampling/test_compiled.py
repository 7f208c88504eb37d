import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from drawing import CPU, least
from peft import LoraConfig

from koala.models import zoo
from koala.models.conditioning import random_condition
from koala.models.cost import unet_inputs
from koala.models.load import load
from koala.models.networks import count_params
from koala.models.spec import Recipe
from koala.sampling import profiles, seeds
from koala.sampling.denoising import Denoising


def test_fused_projections_replace_the_ones_they_are_made_of():
    components = load(zoo.get("tiny-koala-700m"), "cpu", parts=("unet",))
    plain, inputs = count_params(components.unet), unet_inputs(components.spec, 64, 1, torch.float32, CPU)
    with torch.inference_mode():
        expected = components.unet(**inputs).sample
        profiles.fuse_projections(components.unet)
        fused = components.unet(**inputs).sample
    assert (fused - expected).abs().max() < 1e-4
    assert count_params(components.unet) == plain
    names = {name.rpartition(".")[2] for name, _ in components.unet.named_modules()}
    assert {"to_qkv", "to_kv"} < names


def test_projections_with_an_attached_adapter_are_not_fused():
    components = load(zoo.get("tiny-koala-700m"), "cpu", parts=("unet",))
    components.unet.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_k", "to_v"], init_lora_weights=False))
    inputs = unet_inputs(components.spec, 64, 1, torch.float32, CPU)
    with torch.inference_mode():
        expected = components.unet(**inputs).sample
        profiles.fuse_projections(components.unet)
        assert torch.equal(components.unet(**inputs).sample, expected)


def test_projections_are_fused_before_they_are_quantised():
    pytest.importorskip("torchao")
    assert profiles.get("int8+compiled").name == "compiled+int8"
    components = load(zoo.get("tiny-koala-700m"), "cpu", parts=("unet",))
    profiles.fuse_projections(components.unet)
    profiles.get("int8").tune(components)
    fused = [m for name, m in components.unet.named_modules() if name.endswith("to_qkv")]
    assert {type(m.weight.data).__name__ for m in fused} == {"Int8Tensor"}
    with torch.inference_mode():
        output = components.unet(**unet_inputs(components.spec, 64, 1, torch.float32, CPU)).sample
    assert output.isfinite().all()


@pytest.mark.parametrize("recipe", [Recipe("lcm", 3, 0.0), Recipe("euler", 3, 3.5), Recipe("pndm", 3, 1.0)])
def test_a_step_is_compiled_once(recipe):
    compiled = []

    def backend(graph, inputs):
        compiled.append(graph)
        return graph.forward

    components = load(least(), "cpu", parts=("unet",))
    condition = random_condition(components.spec, 2 if recipe.guided else 1, torch.float32, CPU)
    run = Denoising(components, condition, recipe, [seeds.generator(0)], (16, 16))
    run._unet = torch.compile(components.unet, backend=backend, dynamic=False)
    counts = []
    for _ in range(3):
        run.step()
        counts.append(len(compiled))
    assert counts[0] >= 1
    assert counts[-1] == counts[0]


@pytest.mark.slow
@pytest.mark.proves("profile", name="compiled", weights="random", size="toy")
@pytest.mark.timeout(600)
@pytest.mark.skipif(not shutil.which("g++"), reason="no C++ compiler")
def test_compiled_draws_the_same_image_and_compiles_a_size_once():
    code = """
import json, torch
from drawing import RECIPE, draw_with, least
sampler, images = draw_with(least(), "compiled", 16)
_, expected = draw_with(least(), "eager", 16)
difference = (images.int() - expected.int()).abs().max().item()
again = torch._dynamo.utils.counters["stats"]["unique_graphs"]
sampler.sample(["another prompt"], [2], recipe=RECIPE, height=16, width=16)
recompiled = torch._dynamo.utils.counters["stats"]["unique_graphs"] - again
print(json.dumps({"difference": difference, "recompiled": recompiled}))
assert any(name.endswith("to_qkv") for name, _ in sampler.components.unet.named_modules())
"""
    here = Path(__file__).parent
    path = os.pathsep.join([str(here), str(here.parents[1])])
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["difference"] <= 1
    assert json.loads(done.stdout)["recompiled"] == 0
