"""Adapters as the programs that train them save them."""

import re

import torch
from peft import LoraConfig, get_peft_model_state_dict
from pipeline_folders import SDM_V1, SDXL
from safetensors.torch import save_file

from koala.models.load import load
from koala.sampling.pipelines import diffusers_pipeline

SPECS = {spec.name: spec for spec in (SDXL, SDM_V1)}
RANK, ALPHA = 4, 6
UNET_LAYERS = ["to_q", "to_v", "conv1"]
TEXT_LAYERS = ["q_proj", "k_proj", "v_proj", "out_proj", "fc1"]
TEXT = {"text_encoder": "lora_te", "text_encoder_2": "lora_te2"}


def adapted(spec):
    """Components that were trained with LoRA layers, as it were: their outputs are what an adapter must give."""
    components = load(spec, "cpu")
    networks = {"unet": components.unet} | dict(zip(TEXT, components.conditioner.networks, strict=False))
    torch.manual_seed(0)
    for name, network in networks.items():
        layers = UNET_LAYERS if name == "unet" else TEXT_LAYERS
        config = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=layers, init_lora_weights=False)
        network.add_adapter(config, adapter_name="trained")
    for network in networks.values():
        for key, parameter in network.named_parameters():
            if "lora" in key:
                parameter.data.mul_(0.3)
    return components, networks


def state(network):
    return {key: t.contiguous() for key, t in get_peft_model_state_dict(network, adapter_name="trained").items()}


def as_diffusers(spec, networks, folder, parts, metadata=True):
    pipeline = type(diffusers_pipeline(load(spec, "cpu")))
    layers = {f"{part}_lora_layers": state(networks[part]) for part in parts}
    if metadata:
        layers |= {f"{part}_lora_adapter_metadata": networks[part].peft_config["trained"].to_dict() for part in parts}
    pipeline.save_lora_weights(folder, **layers)
    return folder


def as_kohya(networks, path, parts):
    tensors = {}
    for part in parts:
        prefix = "lora_unet" if part == "unet" else TEXT[part]
        if part == "text_encoder" and "text_encoder_2" in networks:
            prefix = "lora_te1"
        for key, tensor in state(networks[part]).items():
            module, kind = re.fullmatch(r"(.*)\.lora_([AB])\.weight", key).groups()
            if part != "unet":
                module = f"text_model.{module.removeprefix('text_model.')}"
            name = f"{prefix}_{module.replace('.', '_')}"
            tensors[f"{name}.lora_{'down' if kind == 'A' else 'up'}.weight"] = tensor
            tensors[f"{name}.alpha"] = torch.tensor(float(ALPHA))
    save_file(tensors, path)
    return path


def as_peft(networks, folder):
    folder.mkdir()
    tensors = {f"base_model.model.{key}": tensor for key, tensor in state(networks["unet"]).items()}
    save_file(tensors, folder / "adapter_model.safetensors")
    networks["unet"].peft_config["trained"].save_pretrained(folder)
    return folder
