"""Which model of the zoo a U-Net's tensors look like, from their names and shapes alone."""

from collections import defaultdict
from collections.abc import Mapping
from functools import cache

from koala.models import single_file, zoo
from koala.models.ldm_names.edm import PREFIX as EDM_PREFIX
from koala.models.ldm_names.unet import PREFIX
from koala.models.networks import meta_networks
from koala.models.spec import UNetPlan
from koala.models.twin import TWIN_PREFIX
from koala.models.weights.fill import Shapes, shapes_of

_FIRST = {False: "conv_in.weight", True: "input_blocks.0.0.weight"}
_ENOUGH = 0.5
_NAMED = 4


def recognise(found: Shapes, original: bool = False) -> str:
    """A sentence that names the zoo's models whose U-Net this is, or the nearest one.

    `original`: the tensors have the names of a single-file checkpoint.
    """
    if original:
        found = {_bare(key): shape for key, shape in found.items() if _of_unet(key, found)}
    shares = {}
    for plan, names in _plans().items():
        if found.get(_FIRST[original], (plan.channels[0],))[0] == plan.channels[0]:
            shares[names] = _share(found, _shapes(names[0], original))
    names, share = max(shares.items(), key=lambda item: item[1], default=((), 0.0))
    if share == 1:
        others = [*names[1:_NAMED], *(["others"] if len(names) > _NAMED else [])]
        also = f" (and of {', '.join(others)})" if others else ""
        return f"It is the U-Net of {names[0]}{also}."
    if share > _ENOUGH:
        return f"It is nearest to the U-Net of {names[0]}, which shares {100 * share:.0f}% of the tensors."
    return "It is not the U-Net of any model here."


def _bare(key: str) -> str:
    return key.removeprefix(PREFIX).removeprefix(EDM_PREFIX)


def _of_unet(key: str, found: Shapes) -> bool:
    if key.endswith(".resample_filter"):  # EDM saves these, which are no weights
        return False
    return key.startswith(PREFIX) or not any(other.startswith(PREFIX) for other in found)


def _plans() -> dict[UNetPlan, tuple[str, ...]]:
    """Every U-Net of the zoo and of its twins, and the models that have it."""
    models: dict[UNetPlan, list[str]] = defaultdict(list)
    for prefix in ("", TWIN_PREFIX):
        for name in zoo.names():
            models[zoo.get(prefix + name).unet].append(prefix + name)
    return {plan: tuple(names) for plan, names in models.items()}


@cache
def _shapes(name: str, original: bool) -> Mapping[str, tuple[int, ...]]:
    spec = zoo.get(name)
    if not original:
        return shapes_of(meta_networks(spec, ("unet",))["unet"])
    tensors = single_file.original(meta_networks(spec, ("unet",)), spec)
    return {_bare(key): tuple(tensor.shape) for key, tensor in tensors.items()}


def _share(found: Shapes, known: Shapes) -> float:
    """Tensors of one name and shape, as a share of all names in either."""
    same = sum(known.get(key) == shape for key, shape in found.items())
    return same / len(found.keys() | known.keys())
