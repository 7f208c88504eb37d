"""How far a picture is from another one of the same prompt and seed."""

import math
from typing import Any

import numpy as np
from jaxtyping import UInt8


def image_difference(a: UInt8[np.ndarray, "h w 3"], b: UInt8[np.ndarray, "h w 3"]) -> dict[str, Any]:
    """Mean and largest absolute difference in 8-bit levels, and PSNR in dB, which is null where they are identical."""
    difference = a.astype(np.int16) - b.astype(np.int16)
    mean_square = float(np.mean(np.square(difference, dtype=np.float64)))
    return {
        "identical": mean_square == 0,
        "mean_absolute_levels": float(np.abs(difference).mean()),
        "max_absolute_levels": int(np.abs(difference).max()),
        "psnr_db": 10 * math.log10(255**2 / mean_square) if mean_square else None,
    }
