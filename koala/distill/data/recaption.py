"""Captions that a vision-language model writes, as one more column of a folder's metadata.

KOALA's second lesson (NeurIPS 2024, section 3.3) trains on such synthetic captions, appended to the original ones.
"""

import csv
import io
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors import SafetensorError
from transformers import AutoModelForImageTextToText, AutoProcessor

from koala.distill.data.example import Example
from koala.distill.data.folder import FILE_NAME, METADATA, CommaSeparated, Folder, JsonLines, metadata_files
from koala.distill.data.images import EXTENSIONS, Broken, decode
from koala.errors import KoalaError, first_few
from koala.harness import records
from koala.harness.files import write_whole
from koala.models.spec import HubFile
from koala.models.weights.places import Unavailable, cached, mirror, online
from koala.sampling.gallery import MANIFEST

_NEEDED = ["*.json", "*.jinja", "*.model", "*.txt", "*.safetensors"]  # of a hub's repository: nothing pickled, no code
_PLAIN_PROMPT = "USER: {image}\n{instruction} ASSISTANT:"  # how LLaVA-1.5 was trained to be asked

# Pictures with the same order of captions as given; an empty one where the model says nothing.
Captioner = Callable[[Sequence[Image.Image]], list[str]]
Row = dict[str, Any]


@dataclass
class Recaptioned:
    """What a run did: captions that were written, those of earlier runs, and why each other image has none."""

    new: int = 0
    earlier: int = 0
    words: int = 0  # in the new captions together
    without: dict[str, str] = field(default_factory=dict)


def recaption(
    folder: Path,
    column: str,
    load: Callable[[], Captioner],
    settings: Mapping[str, Any],
    batch_size: int = 8,
    limit: int | None = None,
    on_images: Callable[[int, int], None] = lambda done, total: None,
) -> Recaptioned:
    """Caption the images of `folder` that have none yet, `limit` at most, and write all captions as its `column`.

    Each batch is on disk before the next begins, so that a run that is killed goes on where it was. `settings` say what
    makes the captions: others than those of an earlier run are refused. The captioner is loaded if there is work.
    """
    path = _store_path(folder, column)
    captions = _earlier(path, settings)
    done, names = Recaptioned(earlier=len(captions)), []
    for example in _examples(folder):
        if column in example.columns and not captions:
            raise KoalaError(f"{folder} has a column {column!r} already; choose another --column")
        if example.problem:
            done.without[example.key] = example.problem
        elif example.key not in captions:
            names.append(example.key)
    names = list(dict.fromkeys(names))[:limit]
    with records.Store(path) as store:
        if names:
            captioner = load()
            store.append({"kind": "recaption", "schema": records.SCHEMA, "settings": dict(settings)})
        for start in range(0, len(names), batch_size):
            some = names[start : start + batch_size]
            found = _captions_of(folder, some, captioner, done)
            store.append(*({"kind": "caption", "file": name, "text": text} for name, text in found.items()))
            captions |= found
            on_images(start + len(some), len(names))
        if captions:
            _add_column(folder, column, captions)
    return done


def _captions_of(folder: Path, names: Sequence[str], captioner: Captioner, done: Recaptioned) -> dict[str, str]:
    """The captions of those files that are images and of which the model says something; counted in `done`."""
    images = {}
    for name in names:
        try:
            images[name] = decode(folder / name)
        except Broken as error:
            done.without[name] = str(error)
    texts = captioner(list(images.values())) if images else []
    found = {name: " ".join(text.split()) for name, text in zip(images, texts, strict=True)}
    done.without |= {name: "the model says nothing" for name, text in found.items() if not text}
    found = {name: text for name, text in found.items() if text}
    done.new += len(found)
    done.words += sum(len(text.split()) for text in found.values())
    return found


def _examples(folder: Path) -> Iterator[Example]:
    """Every row of the folder's metadata; a folder of bare images gets a metadata.jsonl first."""
    if not folder.is_dir():
        raise KoalaError(
            f"{folder} is no folder: captions become a column of a folder's {METADATA[0]}; write tars or parquet out "
            "as images with such a file first"
        )
    if not metadata_files(folder):
        if (folder / MANIFEST).exists():
            raise KoalaError(
                f"{folder} is a gallery, whose captions are its prompts; copy its images to another folder"
            )
        relative = (path.relative_to(folder) for path in folder.rglob("*") if path.suffix.lower() in EXTENSIONS)
        found = sorted(path.as_posix() for path in relative if not any(part.startswith(".") for part in path.parts))
        if not found:
            raise KoalaError(f"{folder} holds no images; those in tars or parquet files have to be written out first")
        write_whole(folder / METADATA[0], "".join(_json({FILE_NAME: name}) for name in found))
    for path in metadata_files(folder):
        _text_of(path)  # what cannot be written again is found before days of captioning
    source = Folder(folder)
    for unit in range(len(source.units)):
        yield from source.read(unit)


def _add_column(folder: Path, column: str, captions: Mapping[str, str]) -> None:
    """Write `captions` (by key) into the folder's metadata, one file after the other; all else in them stays."""
    keys = (example.key for example in _examples(folder))
    for path in metadata_files(folder):
        adds = _added_to_json if path.suffix == ".jsonl" else _added_to_csv
        write_whole(path, adds(path, column, keys, captions))


def _added_to_json(path: Path, column: str, keys: Iterator[str], captions: Mapping[str, str]) -> str:
    lines = []
    for (_, line), key in zip(JsonLines(path).records(), keys, strict=False):
        text = line.decode("utf-8-sig").rstrip("\r\n") + "\n"
        lines.append(_json(json.loads(text) | {column: captions[key]}) if key in captions else text)
    return "".join(lines)


def _added_to_csv(path: Path, column: str, keys: Iterator[str], captions: Mapping[str, str]) -> str:
    """A row that is broken stays so: it gets a cell as the others do."""
    header = next(cells for cells in csv.reader(io.StringIO(_text_of(path), newline="")) if cells)
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(dict.fromkeys([*header, column]))
    for (_, cells), key in zip(CommaSeparated(path).records(), keys, strict=False):
        if column not in header:
            cells.append(captions.get(key, ""))
        elif key in captions:
            cells[header.index(column)] = captions[key]
        writer.writerow(cells)
    return text.getvalue()


def _text_of(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise KoalaError(f"cannot read {path} as UTF-8: {error}") from error


def _json(row: Mapping[str, Any]) -> str:
    text = json.dumps(row, ensure_ascii=False) + "\n"
    return text.encode("utf-8", "backslashreplace").decode()  # half a surrogate pair as JSON's own \udXXX


def _store_path(folder: Path, column: str) -> Path:
    if not re.fullmatch(r"\w[\w.-]*", column) or column == FILE_NAME:
        raise KoalaError(f"{column!r} cannot be a caption column: letters, digits, _ . - and not {FILE_NAME}")
    return folder / f".recaption-{column}.jsonl"


def _earlier(path: Path, settings: Mapping[str, Any]) -> dict[str, str]:
    """Captions of earlier runs by file name, all of which had these settings."""
    if not path.exists() or not path.stat().st_size:
        return {}
    found = records.read([path])
    captions = {row["file"]: row["text"] for row in found.of_kind("caption").rows}
    for row in found.of_kind("recaption").rows if captions else ():
        if differ := [name for name in settings if row["settings"].get(name) != settings[name]]:
            was = ", ".join(f"{name} {row['settings'].get(name)!r}" for name in differ)
            raise KoalaError(f"the captions in {path} were made with {was}; take that again, or another --column")
    return captions


class VisionLanguageModel:
    """A `Captioner`: any image-text-to-text model of transformers, asked the same of every image, without sampling."""

    def __init__(
        self, model: str, instruction: str, max_new_tokens: int, dtype: torch.dtype, device: torch.device | str
    ):
        self._processor, network = _loaded(model, dtype)
        self._network = network.to(device).eval()
        self._dtype, self._max_new_tokens, self._instruction = dtype, max_new_tokens, instruction
        tokenizer = self._processor.tokenizer
        tokenizer.padding_side = "left"  # an answer follows its question without a gap
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token

    @torch.inference_mode()
    def __call__(self, images: Sequence[Image.Image]) -> list[str]:
        """What the model answers of each image."""
        inputs = self._inputs(images).to(self._network.device, self._dtype)
        try:
            output = self._network.generate(
                **inputs,
                do_sample=False,
                num_beams=1,
                max_new_tokens=self._max_new_tokens,
                pad_token_id=self._processor.tokenizer.pad_token_id,
            )
        except torch.OutOfMemoryError as error:
            raise KoalaError(f"{len(images)} images at once do not fit into memory: a smaller --batch-size") from error
        question = inputs["input_ids"]
        width = question.shape[1]
        if torch.equal(output[:, :width], question):  # encoder-decoders, and some others, give the answer alone
            output = output[:, width:]
        return self._processor.batch_decode(output, skip_special_tokens=True)

    def _inputs(self, images: Sequence[Image.Image]) -> Any:
        """The question about each image as the model wants it."""
        tokens = {"padding": True, "return_tensors": "pt"}
        if getattr(self._processor, "chat_template", None) is None:
            mark = getattr(self._processor, "image_token", None)
            question = _PLAIN_PROMPT.format(image=mark, instruction=self._instruction) if mark else self._instruction
            return self._processor(images=list(images), text=[question] * len(images), **tokens)
        said = {"type": "text", "text": self._instruction}
        chats = [[{"role": "user", "content": [{"type": "image", "image": image}, said]}] for image in images]
        return self._processor.apply_chat_template(
            chats, add_generation_prompt=True, tokenize=True, return_dict=True, processor_kwargs=tokens
        )


def _loaded(model: str, dtype: torch.dtype) -> tuple[Any, Any]:
    """The processor and the network, all of whose weights are from files."""
    folder = _folder_of(model)
    try:
        processor = AutoProcessor.from_pretrained(folder)
        network, info = AutoModelForImageTextToText.from_pretrained(
            folder, dtype=dtype, use_safetensors=True, output_loading_info=True
        )
    except (OSError, ValueError, KeyError, ImportError, SafetensorError) as error:
        raise KoalaError(
            f"{model} cannot be loaded as an image-text-to-text model of transformers (config.json, the files of its "
            f"processor, .safetensors): {_line(error)}"
        ) from error
    if unfilled := sorted(str(key) for key in (*info["missing_keys"], *info["mismatched_keys"])):
        raise KoalaError(f"the files of {model} lack {len(unfilled)} of its tensors: {first_few(unfilled)}")
    if not (hasattr(processor, "tokenizer") and hasattr(processor, "image_processor")):
        raise KoalaError(f"{model} has no processor of images and text (processor_config.json)")
    return processor, network


def _folder_of(model: str) -> str:
    """The folder of a model: a path, or a hub's repository in KOALA_WEIGHTS, the hub or its cache."""
    if Path(model).expanduser().is_dir():
        return str(Path(model).expanduser())
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", model):
        raise KoalaError(f"there is no folder {model}")
    file = HubFile(model)
    if folder := mirror(file):
        return str(folder.root)
    from huggingface_hub import snapshot_download

    try:
        online(file)
        return snapshot_download(model, allow_patterns=_NEEDED)
    except (Unavailable, OSError) as error:
        if folder := cached(file):
            return str(folder.root)
        raise KoalaError(
            f"{model} is no folder here, and the hub does not give it ({_line(error)}); give the folder of a model: "
            f"config.json, the files of its processor and {first_few(_NEEDED[-1:])}"
        ) from error


def _line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).partition("\n")[0]
