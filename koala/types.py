"""The tensor shapes that cross files; the tests check them at run time."""

from jaxtyping import Float, UInt8
from torch import Tensor

Latents = Float[Tensor, "n 4 h w"]
Images = UInt8[Tensor, "n h w 3"]
Scores = Float[Tensor, "n"]
