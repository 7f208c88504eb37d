"""EDM's preconditioning (Karras et al., NeurIPS 2022, table 1) around a diffusers U-Net of ADM's blocks."""

from typing import Any

import torch
from diffusers import UNet2DModel
from diffusers.models.unets.unet_2d import UNet2DOutput
from torch import Tensor

from koala.models.noising import EDM, SIGMA_DATA


class PreconditionedUNet(UNet2DModel):
    """A U-Net that is asked as diffusers' `UNet2DConditionModel` is, and predicts the clean sample.

    Its timesteps are those of the noising "edm", whole or not. The layers run in the dtype of the weights, what is
    around them in at least fp32; the prediction has the dtype of the sample.
    """

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor | float,
        encoder_hidden_states: None = None,
        class_labels: Tensor | None = None,
        return_dict: bool = True,
    ) -> Any:
        """The clean sample: c_skip x + c_out F(c_in x; ln(sigma) / 4)."""
        assert encoder_hidden_states is None, "it reads no text"
        timesteps = torch.as_tensor(timestep, device=sample.device).expand(len(sample))
        noisy = sample.to(torch.promote_types(sample.dtype, torch.float32))
        sigma = EDM.sigma(timesteps)
        skip, out, into = (factor.to(noisy.dtype)[:, None, None, None] for factor in preconditioning(sigma))
        layers = super().forward(
            (into * noisy).to(self.dtype), (sigma.log() / 4).float(), class_labels, return_dict=False
        )[0]
        clean = (skip * noisy + out * layers.to(noisy.dtype)).to(sample.dtype)
        return UNet2DOutput(sample=clean) if return_dict else (clean,)


def preconditioning(sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """c_skip, c_out and c_in at that standard deviation of the noise."""
    total = sigma**2 + SIGMA_DATA**2
    return SIGMA_DATA**2 / total, sigma * SIGMA_DATA / total.sqrt(), total.rsqrt()
