"""LoRA (Hu et al., 2022): small adapters are trained in the place of the weights, through peft."""

import json
import math
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers.loaders.lora_base import LORA_ADAPTER_METADATA_KEY
from diffusers.loaders.lora_base import LORA_WEIGHT_NAME_SAFE as FILE
from jaxtyping import Float
from peft import LoraConfig, get_peft_model_state_dict
from safetensors.torch import save as serialised
from torch import Tensor, nn

from koala.distill.dropout import replaced
from koala.distill.finetune import FineTuning, Noisy
from koala.distill.noise import generator
from koala.errors import KoalaError, UnknownName
from koala.harness.files import write_bytes
from koala.models.conditioning import ClipConditioner, Condition
from koala.models.spec import ModelSpec
from koala.types import Latents, Timesteps

TEXT_TARGETS = ("q_proj", "k_proj", "v_proj", "out_proj")  # what diffusers' training scripts adapt in text encoders
_ADAPTER = "default"
_ADAPTABLE = (nn.Linear, nn.Conv2d)


def add_adapters(
    network: Any,
    rank: int,
    alpha: float,
    targets: Collection[str],
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> None:
    """Give each layer of `network` whose name ends in one of `targets` an adapter in `dtype`; only those train.

    They act with alpha / rank, an `alpha` of 0 being the rank, and change nothing until they are trained. Their
    values depend on `seed` and the layers' names alone. A target that no linear or convolution layer has is a
    `KoalaError`.
    """
    _check_targets(network, targets)
    network.requires_grad_(False)
    network.add_adapter(LoraConfig(r=rank, lora_alpha=alpha or rank, target_modules=list(targets)), _ADAPTER)
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(dtype)
        if parameter.requires_grad and ".lora_A." in name:  # as peft, but from a generator of its own, on the CPU
            fresh = torch.empty(parameter.shape)
            nn.init.kaiming_uniform_(fresh, a=math.sqrt(5), generator=generator(seed, 0, name))
            parameter.data.copy_(fresh)


def save(folder: Path, unet: nn.Module | None = None, text_encoders: Sequence[nn.Module] = ()) -> Path:
    """Write the adapters into the one file that diffusers' `load_lora_weights` finds in `folder`, ranks and alphas too.

    Networks without an adapter are left out; the networks are as they were before the trainer wrapped them.
    """
    networks: dict[str, Any] = {"unet": unet} | dict(
        zip(("text_encoder", "text_encoder_2"), text_encoders, strict=False)
    )
    adapted = {name: n for name, n in networks.items() if _ADAPTER in getattr(n, "peft_config", {})}
    assert adapted, "no network has an adapter"
    about = {f"{name}.{key}": v for name, n in adapted.items() for key, v in n.peft_config[_ADAPTER].to_dict().items()}
    metadata = {"format": "pt", LORA_ADAPTER_METADATA_KEY: json.dumps(about, default=sorted, sort_keys=True)}
    tensors = {f"{name}.{key}": value for name, network in adapted.items() for key, value in _state(network).items()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise KoalaError(f"cannot write {folder}: {error.strerror}") from error
    write_bytes(folder / FILE, serialised(tensors, metadata))
    return folder / FILE


class Captioned(nn.Module):
    """A U-Net and its text encoders as one network, which is trained from captions.

    An empty caption stands for one that was dropped: it is told as the model's own guidance tells it (SDXL: zeros).
    """

    def __init__(self, unet: nn.Module, conditioner: ClipConditioner):
        super().__init__()
        self.unet, self.text_encoders = unet, nn.ModuleList(conditioner.networks)
        self._conditioner = conditioner
        for parameter in _unread(conditioner):  # DDP would wait for its gradient
            parameter.requires_grad_(False)

    def forward(
        self,
        samples: Latents,
        timesteps: Timesteps,
        captions: Sequence[str],
        sizes: Float[Tensor, "n 6"] | None,
        return_dict: bool = False,
    ) -> tuple[Tensor]:
        """What diffusers' U-Net returns as a tuple."""
        arguments = self._encoded(captions).unet_arguments(sizes)
        return self.unet(samples, timesteps, **arguments, return_dict=return_dict)

    def enable_gradient_checkpointing(self) -> None:
        """In the U-Net; text encoders take little memory."""
        self.unet.enable_gradient_checkpointing()

    @torch.compiler.disable
    def _encoded(self, captions: Sequence[str]) -> Condition:
        condition = self._conditioner.encode(captions)
        if not self._conditioner.plan.zero_unconditional:
            return condition
        nothing = condition.map(lambda field: torch.zeros_like(field[:1]))
        return replaced(condition, nothing, [not text for text in captions])


class CaptionFineTuning(FineTuning):
    """Fine-tuning in which the conditions come from the captions at each step: text encoders learn too.

    Call `add_adapters` on the networks before; `trained["unet"]` is a `Captioned`.
    """

    def __init__(self, spec: ModelSpec, unet: nn.Module, conditioner: ClipConditioner, **options: Any):
        super().__init__(spec, Captioned(unet, conditioner), **options)

    def _arguments(self, noisy: Noisy) -> dict[str, Any]:
        return {"captions": noisy.batch.captions, "sizes": noisy.batch.sizes}


def _unread(conditioner: ClipConditioner) -> Iterator[nn.Parameter]:
    """The last layer of an encoder of which the states before it are all that is used."""
    for plan, encoder in zip(conditioner.plan.encoders, conditioner.encoders, strict=True):
        if conditioner.plan.penultimate and not plan.projected:
            last = f"encoder.layers.{plan.layers - 1}."
            yield from (parameter for name, parameter in encoder.named_parameters() if last in name)


def _state(network: nn.Module) -> dict[str, Tensor]:
    state = get_peft_model_state_dict(network, adapter_name=_ADAPTER)
    return {key: tensor.detach().cpu().contiguous() for key, tensor in state.items()}


def _check_targets(network: nn.Module, targets: Collection[str]) -> None:
    """As peft matches them, which would take one good target among bad ones for enough."""
    layers = dict(network.named_modules())
    for target in targets:
        found = [layer for name, layer in layers.items() if f".{name}".endswith(f".{target}")]
        if not found or not all(isinstance(layer, _ADAPTABLE) for layer in found):
            known = {_ending(name) for name, layer in layers.items() if isinstance(layer, _ADAPTABLE)}
            raise UnknownName("layer for an adapter", target, known)


def _ending(name: str) -> str:
    """The last part of a layer's name, with the one before where it is a number: "to_q", "to_out.0"."""
    parts = name.split(".")
    return ".".join(parts[-2:]) if parts[-1].isdigit() else parts[-1]
