"""Images that were made elsewhere for a suite -> a gallery like those that are drawn here.

Which image is of which prompt: a table in the folder (`metadata.csv`: file_name, text) says it, else file names do. A
name is taken as the suite's own id of a prompt (`COCO_val2014_000000000042.jpg`, `anime/00012.jpg`), as its place in
the suite from 0 (`00012.png`, as GenEval's tools `00012/samples/0003.png`), each with `_j` or `-j` for image j, or as
T2I-CompBench's `PROMPT_000003.png`.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from PIL import Image
from rich.console import Console

from eval.images import Picture as Decoded
from eval.images import Unreadable, decode
from eval.sources import ImageSet, Item, read_sets
from eval.suite import Prompt, Suite
from koala import __version__
from koala.errors import KoalaError, first_few
from koala.harness.files import sha256_of
from koala.harness.records import Row
from koala.sampling.contact_sheet import write_contact_sheet
from koala.sampling.gallery import Gallery, image_key
from koala.sampling.writer import Writer

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]*")
_GENEVAL = re.compile(r"(?P<prompt>\d+)/(?:samples/)?(?P<image>\d+)")
_NUMBERED = re.compile(r"(?P<prompt>.+?)[_-](?P<image>\d+)")
ELSEWHERE = "elsewhere"


@dataclass(frozen=True)
class Match:
    """An image, the prompt that it is of, and which of the prompt's images it is."""

    item: Item
    prompt: Prompt
    image: int


def take(images: Path, suite: Suite, folder: Path, console: Console) -> Path:
    """The gallery `folder` with the images below `images` in it, each with its prompt, tags and expectations."""
    if not _NAME.fullmatch(folder.name):
        raise KoalaError(f"{folder.name!r} is no name for a gallery; letters, digits, dots and dashes make one")
    sets = read_sets(images)
    if len(sets) > 1:
        raise KoalaError(f"{images} holds {len(sets)} sets ({first_few(s.name for s in sets)}); give one of them")
    matches = matched(sets[0], suite)
    side = _common_size(matches)
    with Gallery(folder) as gallery, Writer(gallery) as writer:
        finished, taken = {_key(row) for row in gallery.rows()}, 0
        for match in matches:
            row = _row(match, suite, folder.name, side, images)
            if _key(row) in finished:
                continue
            decoded = decode(match.item.path)
            if isinstance(decoded, Unreadable):
                console.print(f"left out {match.item.path}: {decoded.reason}", markup=False)
                continue
            assert isinstance(decoded, Decoded)
            writer.write(decoded.pixels, row)
            taken += sum(1 for _ in writer.written())
        taken += sum(1 for _ in writer.written(all_of_them=True))
        write_contact_sheet(gallery)
    _report(matches, suite, taken, folder, console)
    return folder


def _key(row: Row) -> tuple[str, str | None]:
    """What tells a taken image: its place in the suite, and the file that it was."""
    return image_key(row), row.get("source_sha256")


def matched(images: ImageSet, suite: Suite) -> list[Match]:
    """Each image with its prompt, in the suite's order; a `KoalaError` names images that are of none."""
    rules = (_by_table,) if any(item.prompt is not None for item in images.items) else (_by_id, _by_place, _by_text)
    misses: list[str] = []
    for rule in rules:
        found, missed = rule(images.items, suite)
        if not missed:
            _refuse_twice(found)
            places = {id(prompt): place for place, prompt in enumerate(suite.prompts)}
            return sorted(found, key=lambda match: (match.image, places[id(match.prompt)]))
        misses = min((misses or missed, missed), key=len)
    raise KoalaError(
        f"{len(misses)} of the {len(images.items)} images in {images.path} are of no prompt of {suite.name}: "
        f"{first_few(misses)}. Name them by the prompt's place in the suite (00012.png, or 00012_3.png for the fourth "
        "image of a prompt), or put a metadata.csv with the columns file_name and text beside them"
    )


Rule = Callable[[Sequence[Item], Suite], tuple[list[Match], list[str]]]


def _by_table(items: Sequence[Item], suite: Suite) -> tuple[list[Match], list[str]]:
    """By the text that the folder's table gives; images of one prompt follow one another by seed, then by name."""
    prompts = {prompt.text: prompt for prompt in suite.prompts}
    found, missed, seen = [], [], Counter[str]()
    for item in sorted(items, key=lambda item: (item.seed or 0, item.file)):
        if item.prompt in prompts:
            found.append(Match(item, prompts[item.prompt], seen[item.prompt]))
            seen[item.prompt] += 1
        else:
            missed.append(item.file)
    return found, missed


def _by_id(items: Sequence[Item], suite: Suite) -> tuple[list[Match], list[str]]:
    return _by_key(items, {prompt.id: prompt for prompt in suite.prompts if prompt.id})


def _by_place(items: Sequence[Item], suite: Suite) -> tuple[list[Match], list[str]]:
    return _by_key(items, {str(place): prompt for place, prompt in enumerate(suite.prompts)}, number=True)


def _by_text(items: Sequence[Item], suite: Suite) -> tuple[list[Match], list[str]]:
    return _by_key(items, {prompt.text: prompt for prompt in suite.prompts})


def _by_key(
    items: Sequence[Item], prompts: Mapping[str, Prompt], number: bool = False
) -> tuple[list[Match], list[str]]:
    found, missed = [], []
    for item in items:
        match = next((m for m in _readings(item, prompts, number)), None)
        if match:
            found.append(match)
        else:
            missed.append(item.file)
    return found, missed


def _readings(item: Item, prompts: Mapping[str, Prompt], number: bool) -> Iterator[Match]:
    """What an image's name may mean: a whole key, a key and the number of the image, GenEval's folders."""
    name = str(PurePosixPath(item.file).with_suffix(""))
    for key, image in _keys(name):
        plain = str(int(key)) if number and key.isdecimal() else key
        if plain in prompts:
            yield Match(item, prompts[plain], image)


def _keys(name: str) -> Iterator[tuple[str, int]]:
    if parts := _GENEVAL.fullmatch(name):
        yield parts["prompt"], int(parts["image"])
        return
    for whole in dict.fromkeys((name, PurePosixPath(name).name)):
        yield whole, 0
        if parts := _NUMBERED.fullmatch(whole):
            yield parts["prompt"], int(parts["image"])


def _refuse_twice(matches: Sequence[Match]) -> None:
    files: dict[tuple[int, int], str] = {}
    for match in matches:
        key = id(match.prompt), match.image
        if key in files:
            raise KoalaError(
                f"{files[key]} and {match.item.file} are both image {match.image} of {match.prompt.text!r}; "
                "a metadata.csv with file_name and text tells them apart"
            )
        files[key] = match.item.file


def _common_size(matches: Sequence[Match]) -> tuple[int, int] | None:
    """Height and width where all images have the same; else None."""
    sizes = set()
    for match in matches:
        try:
            with Image.open(match.item.path) as image:
                sizes.add(image.size[::-1])
        except (OSError, ValueError, SyntaxError):
            continue
        if len(sizes) > 1:
            return None
    return sizes.pop() if sizes else None


def _row(match: Match, suite: Suite, model: str, size: tuple[int, int] | None, images: Path) -> Row:
    item = match.item
    return {
        "prompt": match.prompt.text,
        "negative": None,
        "seed": item.seed if item.seed is not None else match.image,
        "model": model,
        "weights": ELSEWHERE,
        "height": size and size[0],
        "width": size and size[1],
        "koala": __version__,
        "suite": suite.name,
        "suite_digest": suite.digest,
        "source_file": f"{images}/{item.file}",
        "source_sha256": sha256_of(item.path),
        **match.prompt.facts(),
    }


def _report(matches: Sequence[Match], suite: Suite, taken: int, folder: Path, console: Console) -> None:
    there = {id(match.prompt) for match in matches}
    lacking = [prompt.text for prompt in suite.prompts if id(prompt) not in there]
    console.print(f"{folder.name}: {taken} images taken into {folder}", markup=False)
    if lacking:
        some = first_few((repr(text) for text in lacking), 3)
        console.print(f"{len(lacking)} prompts of {suite.name} have no image: {some}", markup=False)
