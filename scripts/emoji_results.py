"""What the emoji family draws, judged and shown: tables, sheets, and the smallest student.

python scripts/emoji_results.py                  # after scripts/emoji_family.py
python scripts/emoji_results.py speed            # again, on a machine that does nothing else
python scripts/emoji_results.py --scale gpu

Every model of the family that is there draws 400 captions, 161 of them of combinations that it never saw; those of
many steps also in 1, 2, 4 and 10. They are scored beside the real images of the same captions. Each step is a command
of this project, which is printed before it runs; what is drawn, scored or measured is not done again. The results are
results/lessons/emoji-{quality,steps,sheet,pareto}* and, at 32 px, results/lessons/emoji-koala, the student itself;
latencies and memory join results/<device>.
"""

import argparse
import io
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import emoji_judging as judging
import pandas as pd
from emoji_family import NAMES, PRETRAIN, PUBLISHED, ROOT, SIZES
from matplotlib import pyplot as plt

from koala.distill.data.emoji.judged import PARTS as JUDGED
from koala.distill.final import unet_digest
from koala.distill.model_card import LOSSES
from koala.harness import figures
from koala.harness.files import write_bytes, write_whole
from koala.harness.tables import Format, decimals, significant, to_csv, to_markdown
from koala.models import zoo
from koala.models.load import load
from koala.models.new_folder import new_folder
from koala.models.zoo import local
from koala.models.zoo.emoji import GPU
from koala.sampling.contact_sheet import Tile, contact_sheet
from koala.sampling.gallery import Gallery

STEPS, COMPARED = (1, 2, 4, 10, 25), (1, 4, 25)
DTYPES = {"": "fp32", GPU: "fp16"}  # as the images are drawn: `eval generate` says auto
KEPT = (
    "metric",
    "label",
    "value",
    "low",
    "high",
    "n",
    "n_reference",
    "reference",
    "torch",
    "device_name",
    "path",
)
REAL = "real images"
COLUMNS = {
    "kd_dinov2s_imgfocus": "KD, DINOv2-S [lower]",
    "kd_effnet_lite0": "KD, EfficientNet-Lite0 [lower]",
    "toyclip_score": "toyclip score [higher]",
    "toyclip_accuracy@train": "caption right of 3,100, seen [%]",
    "toyclip_accuracy@held-out": "the same, unseen [%]",
    "toyclip_accuracy:tone@held-out": "tone right, unseen [%]",
    "toyclip_accuracy:gender@held-out": "gender right, unseen [%]",
}
SHOWN = 5  # captions of each part on a sheet: the first ones, which lot has chosen


def main() -> int:
    """Draw, score, measure, and write what comes of it."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument(
        "parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; default: both, in this order"
    )
    options.add_argument("--scale", choices=SIZES, default="cpu")
    chosen = options.parse_args()
    if unknown := sorted(set(chosen.parts) - set(PARTS)):
        options.error(f"unknown part {unknown[0]}; known: {', '.join(PARTS)}")
    size = SIZES[chosen.scale]
    family = [name + size for name in NAMES if name != PRETRAIN and (ROOT / str(zoo.get(name + size).folder)).is_dir()]
    if not family:
        options.error("no model of the family is trained yet: scripts/emoji_family.py")
    many = [name for name in family if zoo.get(name).recipe.timesteps is None]
    for part in chosen.parts or PARTS:
        PARTS[part](many, [name for name in family if name not in many], size)
    return 0


def quality(many: list[str], few: list[str], size: str) -> None:
    """Draw and score, and publish the table, the figure and the sheets."""
    side = zoo.get((many + few)[0]).resolution
    galleries = judging.draw(many, "--steps", ",".join(map(str, STEPS))) if many else []
    galleries += judging.draw(few) if few else []
    galleries.append(judging.reference(side))
    judging.score(galleries, side)
    publish(galleries, size)


def speed(many: list[str], few: list[str], size: str) -> None:
    """Measure whole images, and draw quality against latency."""
    rows, side = ROOT / f"runs/bench-emoji{size}/rows.jsonl", zoo.get((many + few)[0]).resolution
    for models, steps in ((many, ("--steps", ",".join(map(str, STEPS)))), (few, ())):
        if models:
            options = ("--models", ",".join(models), "--targets", "pipeline", "--resolutions", str(side))
            judging.run("bench", "sweep", *options, *steps, "--dtypes", DTYPES[size], "--out", str(rows))
    judging.run("bench", "publish", str(rows))
    options = ("--quality", str(judging.OUT / "rows.jsonl"), "--metric", judging.KD[0], "--suite", judging.SUITE)
    judging.run("bench", "pareto", str(rows), *options, "--out", str(PUBLISHED / f"emoji-pareto{size}"))


PARTS = {"quality": quality, "speed": speed}


def publish(galleries: list[Path], size: str) -> None:
    """Write the table, the figure of quality against steps, the sheets and the student."""
    scores = of(galleries, judging.numbers())
    place = PUBLISHED / f"emoji-quality{size}"
    write_whole(place.with_suffix(".csv"), to_csv(scores))
    write_whole(place.with_suffix(".md"), HEAD + to_markdown(*table(scores)) + "\n")
    with plt.rc_context(figures.STYLE):
        figures.save(against_steps(scores), PUBLISHED / f"emoji-steps{size}")
    write_sheet(PUBLISHED / f"emoji-sheet{size}.png", columns(scores, lambda line: line["own"]))
    write_sheet(PUBLISHED / f"emoji-sheet-steps{size}.png", columns(scores, lambda line: line["steps"] in COMPARED))
    if not size:
        attach()


def of(galleries: list[Path], numbers: pd.DataFrame) -> pd.DataFrame:
    """A line a gallery and metric, of those that were drawn now and of the real images; `own`: by its own recipe."""
    lines = numbers[numbers["path"].isin([str(place) for place in galleries])].copy()
    lines["model"] = lines["model"].fillna(REAL)
    recipes = {name: zoo.get(name).recipe.steps for name in zoo.names()}
    lines["own"] = [
        recipes.get(model, steps) == steps for model, steps in zip(lines["model"], lines["steps"], strict=True)
    ]
    lines.loc[lines["model"] == REAL, "own"] = True
    names = [NAMES.index(model.removesuffix(GPU)) if model != REAL else len(NAMES) for model in lines["model"]]
    lines["place"], lines["path"] = names, [str(Path(path).relative_to(ROOT)) for path in lines["path"]]
    return lines.sort_values(["place", "steps"], kind="stable")[["model", "steps", "own", *KEPT]]


def table(scores: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, Format]]:
    """The numbers with their intervals, a line a gallery and a column a metric."""
    lines = []
    for _, of_one in scores.groupby("path", sort=False):
        first, by_metric = of_one.iloc[0], of_one.set_index("metric")
        cells = {head: number(by_metric.loc[name], head) for name, head in COLUMNS.items() if name in by_metric.index}
        lines.append({"model": first["model"], "steps": first["steps"], **cells})
    return pd.DataFrame(lines), {"steps": "{:.0f}".format} | dict.fromkeys(COLUMNS.values(), str)


def number(line: pd.Series, head: str) -> str:
    """A value and its interval; shares as percent."""
    show = decimals(1) if "[%]" in head else significant(3)
    scale = 100 if "[%]" in head else 1
    value, low, high = (None if pd.isna(line[k]) else show(scale * line[k]) for k in ("value", "low", "high"))
    return str(value) if low is None else f"{value} [{low}, {high}]"


def against_steps(scores: pd.DataFrame) -> plt.Figure:
    """Each metric against the number of steps, a line a model of many steps and a point a model of few."""
    names = ("kd_dinov2s_imgfocus", "kd_effnet_lite0", "toyclip_score", "toyclip_accuracy:gender@held-out")
    figure, axes = plt.subplots(1, len(names), figsize=(3.1 * len(names), 2.9))
    for axis, metric in zip(axes, names, strict=True):
        for model, line in scores[scores["metric"] == metric].groupby("model", sort=False):
            if model == REAL:
                if line["value"].iloc[0] < 0:  # it has no place where the axis is a logarithm
                    continue
                axis.axhline(line["value"].iloc[0], color=figures.FAINT, linewidth=0.8, linestyle=":", label=REAL)
                continue
            by_steps = line.sort_values("steps")
            spread = [by_steps["value"] - by_steps["low"], by_steps["high"] - by_steps["value"]]
            axis.errorbar(by_steps["steps"], by_steps["value"], spread, marker=".", linewidth=1, label=model)
        axis.set(title=COLUMNS[metric].replace(" [%]", ""), xscale="log", xlabel="steps")
        if metric == judging.KD[0]:
            axis.set_yscale("log")
        axis.set_xticks(STEPS, [str(step) for step in STEPS])
        axis.minorticks_off()
        axis.title.set_fontsize(9)
    axes[-1].legend(frameon=False, fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.tight_layout()
    return figure


def columns(scores: pd.DataFrame, chosen: Callable[[pd.Series], bool]) -> dict[str, Path]:
    """The galleries that a sheet shows side by side, by what stands below their images."""
    firsts = scores.drop_duplicates("path")
    real = firsts[firsts["model"] == REAL]
    drawn = [line for _, line in firsts[firsts["model"] != REAL].iterrows() if chosen(line)]
    found = {REAL: ROOT / real["path"].iloc[0]}
    return found | {f"{line['model']}, {line['steps']:.0f} steps": ROOT / line["path"] for line in drawn}


def write_sheet(path: Path, galleries: dict[str, Path]) -> None:
    """A row a caption, a column a gallery."""
    files = {name: images(folder) for name, folder in galleries.items()}
    texts = [text for part in JUDGED for text in part_of(galleries[REAL], part)[:SHOWN]]
    rows = [[Tile(found[text], text, name) for name, found in files.items()] for text in texts]
    buffer = io.BytesIO()
    contact_sheet(rows).save(buffer, "png", optimize=True)
    write_bytes(path, buffer.getvalue())


def images(folder: Path) -> dict[str, Path]:
    """The first image of each prompt, of a gallery or of the folder of real ones."""
    table = folder / "metadata.jsonl"
    if table.is_file():
        rows = map(json.loads, table.read_text(encoding="utf-8").splitlines())
        return {row["text"]: folder / row["file_name"] for row in rows}
    return {row["prompt"]: folder / row["file"] for row in reversed(Gallery(folder).rows())}


def part_of(real: Path, part: str) -> list[str]:
    """The captions of train, or of what is held out, in the order of the suite."""
    rows = map(json.loads, (real / "metadata.jsonl").read_text(encoding="utf-8").splitlines())
    return [row["text"] for row in rows if row["part"] == part]


def attach() -> None:
    """Write the smallest student in half precision to where the zoo finds it, unless it is there."""
    spec = zoo.get("emoji-koala")
    place, own = ROOT / str(spec.attached), ROOT / str(spec.folder)
    card = local.read(own)
    if (place / local.CARD).is_file():
        there = local.read(place)
        if (there.facts.get("trained"), there.recipe) == (card.digest, card.recipe):
            return
    unet = load(spec, "cpu", "fp16", str(own), ("unet",)).unet
    with new_folder(fresh := place.with_suffix(".new")) as made:
        unet.save_pretrained(made)
        facts = {**card.facts, "dtype": "fp16", "trained": card.digest}
        write_whole(made / local.CARD, replace(card, digest=unet_digest(made), facts=facts).text())
        shutil.copy(own / LOSSES, made)
        said = (own / "README.md").read_text(encoding="utf-8")
        write_whole(made / "README.md", f"{said}- This copy is in half precision.\n")
    shutil.rmtree(place, ignore_errors=True)
    fresh.replace(place)


HEAD = """# The emoji family: what it draws

Made by `python scripts/emoji_results.py`, whose `--help` says how: 400 captions, 161 of them of combinations that no
model saw, one image each, beside the real images of the same captions at the same size. Intervals are 95% over
captions. The judge of captions (`toyclip`) is trained on real images of the same set; its own errors are in the line of
the real images. One step of a model of many says at once what it expects of pure noise: a mean of images, blurred.

"""


if __name__ == "__main__":
    raise SystemExit(main())
