"""What a metric is. One metric is one file in `eval/metrics/`; the file's name is the metric's name.

A metric scores each image (`ImageMetric`, or `ExpectationMetric` by what its suite says of it), the images of one
prompt together (`GroupMetric`) or a whole set against a reference (`SetMetric`). It names the features that it reads
(`feed`) and gets them from `eval/score.py`, which decodes each image once and runs each network once, however many
metrics read it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from eval.feed import Feed
from koala.types import Features, Images, Scores

if TYPE_CHECKING:
    from eval.features import FeatureSet
    from eval.maths.gaussian import Gaussian
    from eval.networks import Networks

Setting = str | int | float | bool | None


@runtime_checkable
class Metric(Protocol):
    """What every metric says of itself."""

    higher_is_better: bool | None  # None: neither; it describes
    feed: Feed | None = None  # the features it reads; None: the images themselves
    weights: tuple[str, ...] = ()  # files of `eval/weights` it needs beside those of its feed
    packages: tuple[str, ...] = ()  # optional ones it needs, as `import` calls them
    extra: str = ""  # the extra of this project that installs them
    extra_step: str = ""  # what to run then, where the package index does not have all of them
    substitute: bool = False  # stands in, with features that work offline, for a standard metric; never bears its name
    needs_prompts: bool = False
    partial: bool = False  # by its nature without a score for some prompts; of other metrics a missing score is a fault
    balanced_over: str | None = None  # a tag: the mean is that of its values' means, as GenEval's over its six tasks
    version: int = 1  # part of its identity: raised by whoever makes `score` or `compute` give other numbers

    def settings(self) -> Mapping[str, Setting]:
        """What decides a score beside the feed and the weights: scale, prefix, neighbours ...; part of its identity."""
        return {}

    def load(self, networks: "Networks") -> None:
        """Fetch what `score` or `compute` needs beyond its features: heads, text encoders. Called once, before them."""
        return None  # noqa: RET501 - mypy takes an empty body for an abstract method


@runtime_checkable
class ImageMetric(Metric, Protocol):
    """Scores each image on its own; grouping is the report's work."""

    def score(self, images: Images | Features, prompts: Sequence[str]) -> Scores:
        """One score per image, in order: of the features where the metric has a feed, else of equally large images."""
        ...

    def cut(self, prompts: Sequence[str]) -> int:
        """How many of the prompts are longer than what it reads of them."""
        return 0


@runtime_checkable
class ExpectationMetric(Metric, Protocol):
    """Scores each image by what a machine can check of its prompt (`eval.suite.Expectations`)."""

    partial: bool = True
    needs_expectations: bool = True  # False: a prompt may say it itself

    def score_expected(
        self, images: Images | Features, prompts: Sequence[str], expects: Sequence[Mapping[str, Any]]
    ) -> Scores:
        """One score per image, as in `ImageMetric.score`; NaN where `expects` holds nothing that it can check."""
        ...


@runtime_checkable
class GroupMetric(Metric, Protocol):
    """Scores the images of one prompt together, as diversity over seeds."""

    def score_group(self, features: Features) -> float:
        """One score for two or more images of a prompt."""
        ...


@dataclass(frozen=True)
class Estimate:
    """A set's value, with a 95% interval where one that covers is known."""

    value: float
    low: float | None = None
    high: float | None = None
    method: str | None = None  # how the interval came about
    detail: Mapping[str, Setting] = field(default_factory=dict)  # what else to keep: a corrected value, subset counts


@runtime_checkable
class SetMetric(Metric, Protocol):
    """Scores a set of images, mostly against a reference set."""

    needs_reference: bool = True
    needs_reference_images: bool = False  # a mean and a covariance of them are not enough

    def compute(self, features: "FeatureSet", reference: "FeatureSet | Gaussian | None") -> Estimate:
        """The set's value; a `KoalaError` where there are too few images, or only a Gaussian where features are needed.

        `reference` is a `Gaussian` where the user gave mean and covariance alone, None where there is no reference.
        """
        ...
