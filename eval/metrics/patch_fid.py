"""Patch-FID (Yin et al., 2024, DMD2): clean-fid's FID of the middle 299 x 299 pixels, nothing of them resized.

Sees the fine detail that FID's resize hides. An image smaller than the patch is resized whole, as in DMD2's code: for a
reference of photographs, a few of which are.
"""

from functools import partial

from eval.extractors import inception
from eval.feed import Feed, Preparation
from eval.metrics.fid import Fid
from eval.preparation import CenterCrop

_PATCH = CenterCrop(inception.SIDE, or_whole=True)
# The resize leaves a patch as it is.
FEED = Feed(Preparation((_PATCH, *inception.CONVENTIONS["clean"].steps)), "inception")
VARIANTS = {"clean": partial(Fid, FEED)}
