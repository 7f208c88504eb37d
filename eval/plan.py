"""Which metrics can be computed on some images here, and why the others cannot."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec

from eval import extractors, metrics
from eval.feed import Feed
from eval.identity import feed_digest, metric_row
from eval.metric import ExpectationMetric, GroupMetric, Metric, SetMetric
from eval.weights import Found, MissingWeights, Weights
from koala.errors import KoalaError
from koala.harness.records import Row

# What papers report; where one cannot be computed, the report says which file is missing.
STANDARD = (
    "fid:clean",
    "fid:tf",
    "fid:pytorch-fid",
    "kid:clean",
    "inception_score:tf",
    "precision:tf",
    "recall:tf",
    "fd_dinov2",
    "cmmd",
    "clip_score:mlperf",
    "clip_score:bk-sdm",
    "clip_score:dmd2",
    "aesthetic",
    "hps:v2.1",
    "pick_score",
    "image_reward",
    "lpips_diversity",
)
# Real pretrained features from packages, for where the standard ones are missing.
SUBSTITUTES = (
    "kd_effnet_lite0",
    "fd_effnet_lite0",
    "kd_dinov2s_imgfocus",
    "fd_dinov2s_imgfocus",
    "conse_score",
)

_NO_PROMPTS = (
    "it compares images with prompts, and {} have none; a gallery's manifest gives them, or metadata.csv "
    "with the columns file_name and text"
)


@dataclass(frozen=True)
class Situation:
    """What there is to score: prompts, several images of a prompt, a reference, reference images."""

    without_prompt: str  # which images have none; empty where all have one
    without_expectations: str  # which sets say of no image what a machine can check
    without_groups: str  # which sets have no two images of a prompt
    reference: bool
    reference_images: bool
    misfit: Callable[[str, int], str | None]  # why a file of statistics is not of the features of that name and width


@dataclass(frozen=True)
class Planned:
    """A metric that can be computed here, its identity, and the file name of its features."""

    name: str
    metric: Metric
    row: Row
    spool: str | None

    @property
    def id(self) -> str:
        """The id of its identity."""
        return self.row["id"]

    @property
    def feed(self) -> Feed | None:
        """What it reads."""
        return self.metric.feed


@dataclass(frozen=True)
class Unavailable:
    """A metric that cannot be computed here; `files` are the missing ones."""

    name: str
    reason: str
    files: tuple[str, ...] = ()


def plan(
    names: Sequence[str],
    situation: Situation,
    weights: Weights,
    choose_dtype: Callable[[Feed], str] | None = None,
    all_of_them: bool = True,
) -> tuple[list[Planned], list[Unavailable]]:
    """The metrics called `names`, or the standard and substitute ones, split by whether they can be computed.

    A metric that was asked for by name and cannot be computed is a `KoalaError`, if `all_of_them` are wanted.
    """
    ready: list[Planned] = []
    unavailable: list[Unavailable] = []
    for name in dict.fromkeys(names or (*STANDARD, *SUBSTITUTES)):
        planned = _planned_or_not(name, situation, weights, choose_dtype)
        if isinstance(planned, Planned):
            ready.append(planned)
        elif names and all_of_them:
            raise KoalaError(f"{name} cannot be computed: {planned.reason}")
        else:
            unavailable.append(planned)
    if not ready:
        lines = "\n".join(f"  {u.name}: {u.reason.splitlines()[0]}" for u in unavailable)
        raise KoalaError(
            f"no metric can be computed here:\n{lines}\n`python -m eval weights --fetch` fetches some files"
        )
    return ready, unavailable


def _planned_or_not(
    name: str, there: Situation, weights: Weights, choose_dtype: Callable[[Feed], str] | None
) -> Planned | Unavailable:
    metric = metrics.load(name)
    if obstacle := _obstacle(name, metric, there) or _missing(name, metric, weights):
        return obstacle
    planned = _planned(name, metric, weights, choose_dtype)
    return _misfit(planned, there) or planned


def _planned(name: str, metric: Metric, weights: Weights, choose_dtype: Callable[[Feed], str] | None) -> Planned:
    feed = metric.feed
    if feed is None:
        return Planned(name, metric, metric_row(name, metric, _found(weights, metric.weights)), None)
    if choose_dtype:
        feed = metric.feed = replace(feed, dtype=choose_dtype(feed))
    of_feed = _found(weights, extractors.load(feed.extractor).weights)
    row = metric_row(name, metric, {**of_feed, **_found(weights, metric.weights)})
    return Planned(name, metric, row, feed_digest(feed, of_feed))


def _found(weights: Weights, names: Sequence[str]) -> Mapping[str, Found]:
    return {name: weights.find(name) for name in names}


def _obstacle(name: str, metric: Metric, there: Situation) -> Unavailable | None:
    if lacking := [package for package in metric.packages if find_spec(package) is None]:
        steps = [f"pip install 'koala-bench[{metric.extra}]'", metric.extra_step]
        return Unavailable(name, f"it needs {', '.join(lacking)}: {' && '.join(filter(None, steps))}")
    if metric.needs_prompts and there.without_prompt:
        return Unavailable(name, _NO_PROMPTS.format(there.without_prompt))
    if isinstance(metric, ExpectationMetric) and metric.needs_expectations and there.without_expectations:
        reason = (
            f"it checks what a suite expects of its images, and {there.without_expectations} says nothing of that: "
            "`python -m eval generate` draws the images of a suite"
        )
        return Unavailable(name, reason)
    if isinstance(metric, GroupMetric) and there.without_groups:
        reason = f"it needs two images of a prompt (several seeds), of which there are none in {there.without_groups}"
        return Unavailable(name, reason)
    return _no_reference(name, metric, there) if isinstance(metric, SetMetric) else None


def _no_reference(name: str, metric: SetMetric, there: Situation) -> Unavailable | None:
    if metric.needs_reference and not there.reference:
        return Unavailable(name, "it needs images or statistics to compare with: --reference DIR or FILE.npz")
    if metric.needs_reference_images and not there.reference_images:
        return Unavailable(name, "it needs the reference's images: a mean and a covariance are not enough for it")
    return None


def _misfit(planned: Planned, there: Situation) -> Unavailable | None:
    metric = planned.metric
    if not (isinstance(metric, SetMetric) and metric.needs_reference and planned.feed and planned.spool):
        return None
    reason = there.misfit(planned.spool, extractors.load(planned.feed.extractor).dim)
    return Unavailable(planned.name, reason) if reason else None


def _missing(name: str, metric: Metric, weights: Weights) -> Unavailable | None:
    of_feed = extractors.load(metric.feed.extractor).weights if metric.feed else ()
    reasons = []
    files = []
    for file in (*of_feed, *metric.weights):
        try:
            weights.find(file)
        except MissingWeights as error:
            reasons.append(str(error))
            files.append(file)
    return Unavailable(name, "\n".join(reasons), tuple(files)) if files else None
