"""The tensor shapes that cross files; the tests check them at run time."""

from jaxtyping import Float, Int, UInt8
from torch import Tensor

Latents = Float[Tensor, "n c h w"]
StartNoise = Float[Tensor, "one_or_n c h w"]  # what images begin with, the same for all or one each
FloatImages = Float[Tensor, "n 3 height width"]
Images = UInt8[Tensor, "n height width 3"]
Scores = Float[Tensor, "n"]
Features = Float[Tensor, "n d"]
Timesteps = Int[Tensor, "n"]
