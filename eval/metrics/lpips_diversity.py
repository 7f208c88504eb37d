"""Mean LPIPS of the pairs of images that one prompt gave under several seeds.

Not DMD2's diversity (Yin et al., 2024), though it takes four images a prompt too: its code brings them to 512 pixels
and gives LPIPS values from 0 to 1, for which LPIPS was not made, and which network it takes is not published.
"""

from collections.abc import Mapping

from eval.extractors import lpips
from eval.metric import GroupMetric, Setting
from koala.types import Features


class LpipsDiversity(GroupMetric):
    """Falls where a distilled model gives the same image whatever the seed."""

    higher_is_better = True
    feed = lpips.FEED

    def settings(self) -> Mapping[str, Setting]:
        """Which LPIPS; the size is the preparation's."""
        return {"lpips": "0.1", "trunk": "alex", "pairs": "all"}

    def score_group(self, features: Features) -> float:
        """Mean squared distance of all pairs, which is twice the summed variance."""
        return 2 * float(features.double().var(dim=0).sum())


METRIC = LpipsDiversity
