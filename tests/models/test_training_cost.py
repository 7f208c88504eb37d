"""Bytes of activations in training, against what a real forward pass keeps and frees."""

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

from koala.models import zoo
from koala.models.cost import unet_inputs
from koala.models.load import load
from koala.models.training_cost import training_bytes

CPU = torch.device("cpu")


def kept_bytes(spec, resolution, batch):
    """Bytes of all storages that a real forward pass keeps for the way back, weights left out."""
    unet = load(spec, "cpu", parts=("unet",)).unet.train().requires_grad_()
    weights = {p.untyped_storage().data_ptr() for p in unet.parameters()}
    kept = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        output = unet(**unet_inputs(spec, resolution, batch, torch.float32, CPU), return_dict=False)[0]
    assert output.requires_grad
    return sum(kept.values())


@pytest.mark.parametrize("name", ["tiny-koala-700m", "tiny-sdxl", "tiny-sdm-v1.5", "tiny-bk-sdm-tiny"])
def test_it_is_a_little_more_than_what_a_forward_pass_keeps(name):
    spec = zoo.get(name)
    kept = kept_bytes(spec, 128, 2)
    assert 1.0 <= training_bytes(spec, 128, 2, "fp32") / kept < 1.35


def test_it_grows_with_the_batch_and_shrinks_with_precision_and_checkpointing():
    spec = zoo.get("tiny-koala-700m")
    one = training_bytes(spec, 128, 1, "fp32")
    assert training_bytes(spec, 128, 4, "fp32") == pytest.approx(4 * one, rel=0.05)
    assert training_bytes(spec, 128, 1, "bf16") == pytest.approx(one / 2, rel=0.1)
    assert training_bytes(spec, 128, 1, "fp32", checkpointing=True) < one / 3


def test_attention_is_as_it_was_afterwards():
    before = torch.nn.functional.scaled_dot_product_attention
    training_bytes(zoo.get("tiny-bk-sdm-tiny"), 64, 3, "fp32")
    assert torch.nn.functional.scaled_dot_product_attention is before
