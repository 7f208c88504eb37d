"""How often the right one is the nearest: a caption's image, an image's caption, an image's part of a caption."""

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor

from eval.toyclip.captions import Caption, unlike_in
from koala.types import Scores

Places: TypeAlias = Int[Tensor, "n"]  # noqa: F821


def own_is_nearest(cosines: Float[Tensor, "n m"], own: Places) -> Scores:
    """1 where each row is greatest at its own column, else 0, a tie too, which tells nothing; NaN for column -1."""
    right = cosines.gather(1, own.clamp(min=0)[:, None])
    nearest = ((cosines >= right).sum(dim=1) == 1).float()
    return torch.where(own >= 0, nearest, float("nan"))


def told_apart(cosines: Float[Tensor, "n m"], own: Sequence[int], part: str, captions: Sequence[Caption]) -> Scores:
    """1 where an image's own caption is the nearest of those that differ in `part` alone, else 0; NaN without any.

    `own` is -1 for an image whose caption is none of them.
    """
    rivals, scores = unlike_in(part, captions), torch.full((len(own),), float("nan"))
    for row, place in enumerate(own):
        if place >= 0 and (group := rivals.get(captions[place].text)):
            scores[row] = own_is_nearest(cosines[row : row + 1, group], torch.tensor([group.index(place)])).item()
    return scores


def retrieval(
    images: Float[Tensor, "n d"],
    texts: Float[Tensor, "m d"],
    own: Sequence[int],
    asked: Sequence[int],
    captions: Sequence[Caption],
) -> Mapping[str, float]:
    """Shares of right answers for the images at the places `asked`, among all images and all captions.

    `texts` are those of `captions`; `own` is each image's place among them.
    """
    cosines, places = images @ texts.T, torch.tensor(own)
    said = places[list(asked)]
    # A caption that several images bear has found one of its own, whichever of them is nearest.
    found = (places[cosines.T[said].argmax(dim=1)] == said).float().mean().item()
    told = own_is_nearest(cosines[list(asked)], said).mean().item()
    parts = dict.fromkeys(part for caption in captions for part in caption.parts)
    apart = {part: told_apart(cosines[list(asked)], said.tolist(), part, captions) for part in parts}
    known = {part: scores.nanmean().item() for part, scores in apart.items() if not scores.isnan().all()}
    return {"text to image": found, "image to text": told, **known}
