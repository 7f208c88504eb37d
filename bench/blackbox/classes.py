"""What diffusers says of its pipeline classes, read from its source: nothing of it is imported, so no torch either."""

import ast
import difflib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from koala.errors import KoalaError

_CLASS = r"^class ({})\b"
_TASKS = "AUTO_TEXT2IMAGE_PIPELINES_MAPPING"  # where diffusers lists what AutoPipelineForText2Image takes
# Parameters of pipelines that draw something else, or from something else, than an image from a prompt.
_OTHER_TASKS = ("control_image", "mask_image", "masked_image_latents", "image_embeds", "num_frames", "video", "audio")


@dataclass(frozen=True)
class PipelineClass:
    """A pipeline class as its source has it; `defaults` are those of a call that are plain values, else None."""

    name: str
    defaults: Mapping[str, Any]
    required: frozenset[str]  # parameters of a call that have no default
    components: frozenset[str]  # what it is made of and cannot be made without
    optional: frozenset[str]  # components that may be missing
    default_sample_size: int | None  # in latent pixels, where the denoiser's configuration has none

    def check_text_to_image(self) -> None:
        """Raise a `KoalaError` unless a prompt, a height and a width are all that a call needs."""
        if missing := {"prompt", "height", "width"} - self.defaults.keys():
            raise self._refused(f"it takes no {', '.join(sorted(missing))}")
        if needed := self.required - {"prompt"}:
            raise self._refused(f"it needs {', '.join(sorted(needed))}")
        if other := [name for name in _OTHER_TASKS if name in self.defaults]:
            raise self._refused(f"it takes {', '.join(other)}")
        if "controlnet" in self.components:
            raise self._refused("its controlnet needs an image")
        if {"image", "images"} & self.defaults.keys() and self.name not in _text_to_image():
            raise self._refused("it takes an image, and diffusers does not list it among those that can do without")

    def _refused(self, why: str) -> KoalaError:
        return KoalaError(f"{self.name} is no text-to-image pipeline: {why}")


@lru_cache(maxsize=32)
def read_class(name: str) -> PipelineClass:
    """The pipeline class `name` of the diffusers installed here; a `KoalaError` if it has none of that name."""
    calls, inits, optional = None, None, None
    for body in _lineage(name):
        calls = calls or _function(body, "__call__")
        inits = inits or _function(body, "__init__")
        optional = optional if optional is not None else _assigned(body, "_optional_components")
    if calls is None or inits is None:
        raise KoalaError(
            f"{name} of diffusers {version('diffusers')} cannot be called: it is no text-to-image pipeline"
        )
    defaults, required = _parameters(calls)
    _, components = _parameters(inits)
    optional = frozenset(optional or ())
    return PipelineClass(name, defaults, required, components - optional, optional, _default_sample_size(inits))


def shipped_with_pipelines(library: str) -> bool:
    """Whether model_index.json's `library` is a package of diffusers' own beside its pipelines, such as "kolors"."""
    return library.isidentifier() and (_pipelines() / library / "__init__.py").is_file()


def _lineage(name: str) -> Iterator[ast.ClassDef]:
    """The class and those that it inherits from, as far as they are pipelines."""
    found = _definition(name)
    yield found
    for base in found.bases:
        if isinstance(base, ast.Name) and base.id.endswith("Pipeline") and base.id != "DiffusionPipeline":
            yield from _lineage(base.id)


def _definition(name: str) -> ast.ClassDef:
    pattern, known = re.compile(_CLASS.format(r"\w+Pipeline"), re.MULTILINE), set()
    for path in sorted(_pipelines().rglob("pipeline_*.py")):
        source = path.read_text(encoding="utf-8")
        classes = pattern.findall(source)
        if name in classes:
            return next(n for n in ast.parse(source).body if isinstance(n, ast.ClassDef) and n.name == name)
        known.update(classes)
    close = difflib.get_close_matches(name, sorted(known), n=1)
    hint = f" (did you mean {close[0]}?)" if close else ""
    raise KoalaError(f"diffusers {version('diffusers')} has no pipeline {name!r}{hint}; a newer one may: update it")


@lru_cache(maxsize=1)
def _text_to_image() -> frozenset[str]:
    """The classes that diffusers lists for text to image."""
    tree = ast.parse((_pipelines() / "auto_pipeline.py").read_text(encoding="utf-8"))
    tables = [n.value for n in tree.body if isinstance(n, ast.Assign) and ast.unparse(n.targets[0]) == _TASKS]
    return frozenset(node.id for table in tables for node in ast.walk(table) if isinstance(node, ast.Name))


def _pipelines() -> Path:
    package = find_spec("diffusers")  # found, not imported: importing it takes seconds
    if package is None or package.origin is None:
        raise KoalaError("diffusers is not installed: pip install diffusers")
    return Path(package.origin).parent / "pipelines"


def _function(body: ast.ClassDef, name: str) -> ast.FunctionDef | None:
    return next((n for n in body.body if isinstance(n, ast.FunctionDef) and n.name == name), None)


def _assigned(body: ast.ClassDef, name: str) -> Any:
    """The plain value that a class gives its attribute `name`, or None."""
    values = [n.value for n in body.body if isinstance(n, ast.Assign) and ast.unparse(n.targets[0]) == name]
    return _plain(values[0]) if values else None


def _parameters(function: ast.FunctionDef) -> tuple[dict[str, Any], frozenset[str]]:
    """All parameters but `self` with their defaults, and the names of those that have none."""
    arguments = function.args
    names = [a.arg for a in (*arguments.posonlyargs, *arguments.args)]
    padded: list[ast.expr | None] = [None] * (len(names) - len(arguments.defaults))
    pairs = dict(zip(names, [*padded, *arguments.defaults], strict=True))
    pairs |= dict(zip([a.arg for a in arguments.kwonlyargs], arguments.kw_defaults, strict=True))
    pairs.pop("self", None)
    defaults = {name: None if value is None else _plain(value) for name, value in pairs.items()}
    return defaults, frozenset(name for name, value in pairs.items() if value is None)


def _default_sample_size(init: ast.FunctionDef) -> int | None:
    """What `self.default_sample_size` is set to: a number, or the number of `<a configuration's> if .. else 128`."""
    for node in ast.walk(init):
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "self.default_sample_size":
            value = node.value.orelse if isinstance(node.value, ast.IfExp) else node.value
            found = _plain(value)
            return found if isinstance(found, int) else None
    return None


def _plain(expression: ast.expr) -> Any:
    try:
        return ast.literal_eval(expression)
    except ValueError:
        return None
