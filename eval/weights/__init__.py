"""The weight files that metrics want: which they are (`table`), where they lie (`find`), how they are fetched."""

from eval.weights.find import Found, MissingWeights, Weights

__all__ = ["Found", "MissingWeights", "Weights"]
