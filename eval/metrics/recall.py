"""Recall (Kynkaanniemi et al., 2019) as torch-fidelity (tf) computes it: how many real images look like some image."""

from functools import partial

from eval.maths import manifold
from eval.metrics.precision import Neighbours

VARIANTS = {"tf": partial(Neighbours, manifold.recall, 3)}
