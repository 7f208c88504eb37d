"""Coverage (Naeem et al., 2020), k = 5: how many real images have an image nearer than their k-th real neighbour."""

from functools import partial

from eval.maths import manifold
from eval.metrics.precision import Neighbours

METRIC = partial(Neighbours, manifold.coverage, 5)
