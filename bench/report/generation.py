"""How an image was made, as far as that decides its cost: the key by which latency joins quality."""

from typing import Any, NamedTuple

from koala.errors import KoalaError
from koala.models import zoo
from koala.models.spec import Recipe

Line = dict[str, Any]


class Generation(NamedTuple):
    """What both a latency and a quality must be of. Where the weights came from and guidance's scale cost no time."""

    model: str
    resolution: int  # side of the square image in pixels
    steps: int
    scheduler: str
    guided: bool  # twice the work a step
    dtype: str
    profile: str

    def __str__(self) -> str:
        guided = "guided" if self.guided else "not guided"
        steps = f"{self.steps} step{'s' if self.steps != 1 else ''}"
        return f"{self.model} {self.resolution}px {steps} {self.scheduler} {guided} {self.dtype} {self.profile}"

    def unlike(self, other: "Generation") -> list[str]:
        """The fields in which two differ."""
        return [name for name, a, b in zip(self._fields, self, other, strict=True) if a != b]


def of_latency(line: Line) -> Generation | None:
    """The key of a measured pipeline; None where its recipe is not known, as of a black box or a folder that is gone.

    Forwards that were counted tell best whether it was guided.
    """
    recipe = _recipe(line["model"], line["weights"])
    if recipe is None:
        return None
    steps = int(line["steps"] or recipe.steps)
    alone = {"pndm": steps + 1, "heun": 2 * steps - 1}.get(recipe.scheduler, steps)  # forwards without guidance
    guided = line["nfe"] > 1.5 * alone if line["nfe"] else recipe.guided
    return Generation(
        line["model"], int(line["resolution"]), steps, recipe.scheduler, guided, line["dtype"], line["profile"]
    )


def of_quality(line: Line) -> Generation | None:
    """The key of a scored set; None where it does not say how its images were made, or where they are not square."""
    needed = [line[name] for name in ("model", "steps", "scheduler", "guidance", "image_dtype", "profile", "height")]
    if None in needed or line["height"] != line["width"]:
        return None
    recipe = Recipe(line["scheduler"], int(line["steps"]), float(line["guidance"]))
    return Generation(
        line["model"],
        int(line["height"]),
        recipe.steps,
        recipe.scheduler,
        recipe.guided,
        line["image_dtype"],
        line["profile"],
    )


def _recipe(model: str, weights: str) -> Recipe | None:
    """The recipe of a model of the zoo, or of one that was trained here and lies where it lay."""
    try:
        spec = zoo.get(model if zoo.known(model) else weights)
    except KoalaError:
        return None
    return spec.recipe if spec.name == model or zoo.known(model) else None
