"""Density (Naeem et al., 2020), k = 5: in how many balls of real images an image lies, over k; may exceed 1."""

from functools import partial

from eval.maths import manifold
from eval.metrics.precision import Neighbours

METRIC = partial(Neighbours, manifold.density, 5)
