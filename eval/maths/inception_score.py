"""The Inception Score (Salimans et al., 2016)."""

import numpy as np
import torch

from koala.errors import KoalaError
from koala.types import Features


def inception_score(logits: Features, splits: int = 10, seed: int = 2020) -> tuple[float, float]:
    """Mean and standard deviation over `splits` parts of exp(E KL(p(label | image) || p(label))); at least 1.

    The rows are shuffled first, in torch-fidelity's random sequence, and computed in float64.
    """
    n = len(logits)
    if n < splits:
        raise KoalaError(
            f"an Inception Score over {splits} splits needs as many images, and there are {n}; use fewer splits"
        )
    if not logits.isfinite().all():
        raise KoalaError(
            "logits hold NaN or infinite values; find the images that gave them, leave them out, run again"
        )
    order = torch.from_numpy(np.random.RandomState(seed).permutation(n))
    log_p = logits[order].double().log_softmax(dim=1)
    scores = []
    for i in range(splits):
        part = log_p[i * n // splits : (i + 1) * n // splits]
        marginal = (part.logsumexp(dim=0) - np.log(len(part))).clamp(min=torch.finfo(torch.float64).min)
        scores.append((part.exp() * (part - marginal)).sum(dim=1).mean().exp().item())
    return float(np.mean(scores)), float(np.std(scores))
