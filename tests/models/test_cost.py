from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from koala.models import zoo
from koala.models.cost import (
    NOTHING,
    decode_cost,
    forward_cost,
    image_cost,
    text_cost,
    unet_cost,
    unet_inputs,
)
from koala.models.load import load
from koala.models.spec import ClassLabels
from koala.sampling.sampler import Sampler
from koala.sampling.schedules import build_scheduler, set_timesteps, with_steps

META = torch.device("meta")
TINY = ("tiny-koala-700m", "tiny-sdm-v1.5")


def meta(*shape, dtype=torch.float32):
    return torch.empty(*shape, dtype=dtype, device=META)


def cost_of(network, *inputs):
    return forward_cost(network, lambda: network(*inputs), inputs)


def on_meta(network):
    return network.to(META)


# ---- one layer, by hand


def test_a_convolution_reads_image_and_weights_and_writes_its_output():
    cost = cost_of(on_meta(nn.Conv2d(4, 8, 3, padding=1)), meta(2, 4, 16, 16))
    assert cost.params == 8 * 4 * 3 * 3 + 8
    assert cost.flops == 2 * (2 * 8 * 16 * 16) * (4 * 3 * 3)
    assert cost.moved_bytes == 4 * (2 * 4 * 16 * 16 + 8 * 4 * 3 * 3 + 8 + 2 * 8 * 16 * 16)
    assert cost.activation_bytes == 4 * (2 * 4 * 16 * 16 + 2 * 8 * 16 * 16)


def test_a_linear_layer_reads_rows_and_weights_and_its_views_are_free():
    cost = cost_of(on_meta(nn.Linear(32, 64)).half(), meta(2, 5, 32, dtype=torch.float16))
    assert cost.flops == 2 * (2 * 5) * 32 * 64
    assert cost.moved_bytes == 2 * (2 * 5 * 32 + 32 * 64 + 64 + 2 * 5 * 64)


def test_weights_count_each_time_they_are_read():
    layer = on_meta(nn.Linear(32, 32, bias=False))
    x = meta(4, 32)
    twice = forward_cost(layer, lambda: layer(layer(x)), x)
    once = cost_of(layer, x)
    assert (twice.params, twice.flops, twice.moved_bytes) == (once.params, 2 * once.flops, 2 * once.moved_bytes)


@settings(deadline=None, max_examples=25)
@given(
    batch=st.integers(1, 3), heads=st.integers(1, 4), queries=st.integers(1, 70), keys=st.integers(1, 70),
    width=st.integers(1, 40),
)  # fmt: skip
def test_attention_is_one_operator_of_two_products_that_keeps_no_scores(batch, heads, queries, keys, width):
    q, k = meta(batch, heads, queries, width), meta(batch, heads, keys, width)
    v = meta(batch, heads, keys, width)
    cost = forward_cost(nn.Identity(), lambda: F.scaled_dot_product_attention(q, k, v), (q, k, v))
    assert cost.flops == 2 * 2 * batch * heads * queries * keys * width
    all_bytes = 4 * batch * heads * width * (queries + keys + keys + queries)
    assert cost.moved_bytes == cost.activation_bytes == all_bytes


def test_attention_reads_its_mask_too_and_a_tensor_given_twice_once():
    q, mask = meta(1, 2, 8, 4), meta(8, 8)
    cost = forward_cost(nn.Identity(), lambda: F.scaled_dot_product_attention(q, q, q, attn_mask=mask), (q, mask))
    assert cost.moved_bytes == 4 * (2 * 8 * 4 + 8 * 8 + 2 * 8 * 4)


def test_of_a_table_only_the_rows_that_come_out_are_read():
    cost = cost_of(on_meta(nn.Embedding(1000, 16)), torch.zeros(3, dtype=torch.long, device=META))
    assert cost.moved_bytes == 3 * 8 + 2 * (3 * 16 * 4)


@pytest.mark.parametrize(
    ("run", "moved_values"),
    [
        (lambda x: x.view(64).reshape(4, 16).t()[:2].unsqueeze(0), 0),
        (torch.empty_like, 0),
        (lambda x: x * x, 2 * 64),
        (lambda x: x[:2] * x[2:], 3 * 32),
        (lambda x: x + x[:1].expand(4, 16), 64 + 16 + 64),
        (lambda x: x.mul_(2), 2 * 64),
        (lambda x: torch.empty_like(x).copy_(x), 2 * 64),
        (lambda x: x.t().contiguous(), 2 * 64),
    ],
    ids=["views", "reserved", "one tensor twice", "two halves", "expanded", "in place", "overwritten", "made whole"],
)
def test_what_an_operator_moves_are_the_distinct_elements_it_reads_and_writes(run, moved_values):
    x = meta(4, 16)
    assert forward_cost(nn.Identity(), lambda: run(x), x).moved_bytes == 4 * moved_values


# ---- whole networks


@pytest.mark.parametrize(("name", "tflop"), [("sdxl", 6.76), ("koala-1b", 3.43), ("koala-700m", 2.70)])
def test_a_unet_call_at_1024_pixels_costs_what_was_computed_from_the_papers(name, tflop):
    # facts/papers.md section 1.1, twice its multiply-adds
    assert round(unet_cost(zoo.get(name), 1024, 1).flops / 1e12, 2) == tflop


@pytest.mark.parametrize("name", TINY)
def test_the_operators_counted_without_arithmetic_are_those_of_a_real_forward(name):
    spec = zoo.get(name)
    unet = load(spec, "cpu", "fp32", parts=("unet",)).unet
    inputs = unet_inputs(spec, 64, 2, torch.float32, torch.device("cpu"))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        unet(**inputs)
    counted = unet_cost(spec, 64, 2, "fp32")
    assert counted.flops == counter.get_total_flops()
    assert counted == forward_cost(unet, lambda: unet(**inputs, return_dict=False), inputs)


def test_two_rows_take_twice_the_operations_but_read_the_weights_once():
    spec = zoo.get("tiny-koala-1b")
    one, two = (unet_cost(spec, 64, rows) for rows in (1, 2))
    assert two.flops == 2 * one.flops
    assert one.moved_bytes < two.moved_bytes < 2 * one.moved_bytes
    assert one.moved_bytes > 2 * one.params  # fp16: two bytes each


def test_half_precision_halves_what_is_moved_and_changes_no_operation():
    spec = zoo.get("tiny-koala-700m")
    half, full = (unet_cost(spec, 64, 1, dtype) for dtype in ("fp16", "fp32"))
    assert half.flops == full.flops
    assert full.moved_bytes == pytest.approx(2 * half.moved_bytes, rel=0.01)


# ---- text, decoding and the whole image


def test_text_costs_all_encoders_and_grows_with_the_number_of_prompts():
    sdxl = zoo.get("sdxl")
    one, two = text_cost(sdxl, 1), text_cost(sdxl, 2)
    assert one.params == 123_060_480 + 694_659_840
    assert two.flops == 2 * one.flops
    assert text_cost(sdxl, 0) == NOTHING


def test_class_labels_and_pixels_need_no_text_and_no_decoding():
    sd = zoo.get("tiny-sdm-v1.5")
    unet = replace(sd.unet, context_dim=None, transformer_depths=(0,) * len(sd.unet.channels), mid_depth=0)
    unet = replace(unet, class_labels=3, sample_channels=3, up_transformer_depths=None)
    spec = replace(sd, unet=unet, conditioning=ClassLabels(("cat", "dog")), autoencoder=None, unet_params=None)
    assert text_cost(spec, 2) == decode_cost(spec, 64, 1) == NOTHING


def test_decoding_is_counted_in_fp32_where_an_fp16_autoencoder_is_upcast():
    spec = zoo.get("tiny-sdxl")
    assert spec.autoencoder.upcast_to_fp32
    assert decode_cost(spec, 64, 1, "fp16") == decode_cost(spec, 64, 1, "fp32")
    assert decode_cost(spec, 64, 1, "bf16").moved_bytes < 0.6 * decode_cost(spec, 64, 1, "fp32").moved_bytes
    kept = replace(spec, autoencoder=replace(spec.autoencoder, upcast_to_fp32=False))
    assert decode_cost(kept, 64, 1, "fp16") == decode_cost(kept, 64, 1, "bf16")


@pytest.mark.parametrize("name", ["tiny-koala-700m", "tiny-sdm-v1.5", "tiny-koala-lightning-700m"])
def test_an_image_costs_what_the_sampler_really_computes(name):
    spec, batch, steps = zoo.get(name), 2, 2
    recipe = with_steps(spec.recipe, steps)
    sampler = Sampler(load(spec, "cpu", "fp32"))
    with FlopCounterMode(display=False) as counter:
        condition = sampler.encode(["a red apple"] * batch, recipe=recipe)
        latents = sampler.denoise(condition, range(batch), recipe, 64, 64)
        sampler.decode(latents)
    timesteps = set_timesteps(build_scheduler(recipe, spec.prediction), recipe, torch.device("cpu"))
    calls = len(timesteps) * (2 if recipe.guided else 1)
    counted = image_cost(spec, 64, batch, "fp32", calls)
    unet = unet_cost(spec, 64, 1, "fp32")
    prompts = 2 if name == "tiny-sdm-v1.5" else 1
    assert counted.flops == text_cost(spec, prompts, "fp32").flops + calls * batch * unet.flops + (
        decode_cost(spec, 64, batch, "fp32").flops
    )
    assert counted.flops == counter.get_total_flops()
    assert counted.params == sum(sum(p.numel() for p in n.parameters()) for n in sampler.components.networks)
