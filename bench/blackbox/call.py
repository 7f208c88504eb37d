"""diffusers' own pipelines: loaded from a folder, and timed from outside."""

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from importlib import import_module
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from accelerate import init_empty_weights
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from bench.blackbox.describe import DENOISERS, RANDOM, BlackBox, Part, parts_of, weight_files
from bench.blackbox.places import INDEX, named_parts
from bench.instruments.phases import CALL, NETWORK, STEP, Phases
from koala.errors import KoalaError, first_few
from koala.harness.files import read_json
from koala.models.load import DTYPES
from koala.models.networks import count_params
from koala.models.random_weights import materialise
from koala.models.weights.files import is_half

PROMPT = "a photo of a red apple to the left of a blue car, golden hour, detailed"
# What a pipeline is made without, and how it is called, where its class has such a word: no mark is drawn into images
# or looked for in them, the side is the one that was asked for, not the nearest of a list, and the prompt is taken as
# it is, as diffusers does anyway where Beautiful Soup is not installed.
_MADE = {"add_watermarker": False, "requires_safety_checker": False}
_CALLED = {"use_resolution_binning": False, "clean_caption": False}


@dataclass(frozen=True)
class Loaded:
    """A pipeline on its device, its networks by name, and the parameters of all of them."""

    pipeline: Any
    networks: Mapping[str, nn.Module]

    @property
    def params(self) -> int:
        """Number of parameters."""
        return sum(map(count_params, self.networks.values()))

    @property
    def weight_bytes(self) -> int:
        """Bytes of all parameters."""
        return sum(p.numel() * p.element_size() for n in self.networks.values() for p in n.parameters())


def load_pipeline(box: BlackBox, device: torch.device | str, dtype: str) -> Loaded:
    """The pipeline in the box's folder, with its weights or random ones; a `KoalaError` if it cannot be loaded."""
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    folder = Path(box.folder)
    networks: dict[str, nn.Module] = {}
    for seed, part in enumerate(part for part in parts_of(folder) if part.is_network):
        kind, place = _class_of(part), folder / part.name
        with _reading(place):
            if box.weights == RANDOM:
                networks[part.name] = _random_network(kind, place, device, DTYPES[dtype], seed)
            else:
                networks[part.name] = _trained_network(kind, place, device, dtype)
    with _reading(folder):
        return Loaded(_assembled(box, networks), networks)


class PipelineCall:
    """Prompt to float images through a pipeline of diffusers', timed from outside: stages are its own functions and
    modules, a step goes from the denoiser's first call to the end of the scheduler's `step`.
    """

    def __init__(self, pipeline: Any, arguments: Mapping[str, Any], device: torch.device | str, phases: Phases):
        self.phases = phases
        words = inspect.signature(type(pipeline).__call__).parameters
        own = {word: value for word, value in _CALLED.items() if word in words}
        self._pipeline, self._device, self._arguments = pipeline, device, {**own, **arguments}
        prompts = arguments["prompt"]
        self.images = (1 if isinstance(prompts, str) else len(prompts)) * arguments.get("num_images_per_prompt", 1)
        self._rows, self._in_step = 0, False
        pipeline.set_progress_bar_config(disable=True)

    def prepare(self) -> None:
        """Seed the noise and forget the last call, also one that an error ended."""
        self._generator = torch.Generator(self._device).manual_seed(0)
        self._rows, self._in_step = 0, False
        self.phases.clear()

    def run(self) -> Tensor:
        """Float images [n, 3, h, w] in [0, 1]."""
        with self._watched(), self.phases.span(CALL):
            images = self._pipeline(**self._arguments, generator=self._generator, output_type="pt").images
            if self._in_step or not self._rows:
                raise KoalaError(
                    f"{type(self._pipeline).__name__} ends its steps elsewhere than in its scheduler's step"
                )
        return images

    @property
    def nfe(self) -> float:
        """Rows that the denoiser was called with in the last call, guidance included, for each image."""
        rows, more = divmod(self._rows, self.images)
        return self._rows / self.images if more else rows

    def count_flops(self) -> int:
        """Floating-point operations (2 a multiply-add) of one more call, of which no time is kept."""
        self.prepare()
        with FlopCounterMode(display=False) as counter:
            self.run()
        self.phases.clear()
        return counter.get_total_flops()

    @contextmanager
    def _watched(self) -> Iterator[None]:
        """Spans around the pipeline's parts while a call lasts, on these objects alone."""
        pipeline, phases = self._pipeline, self.phases
        denoiser = next(d for name in DENOISERS if (d := getattr(pipeline, name, None)) is not None)
        watched: list[tuple[Any, str, Callable[..., Any]]] = [
            (denoiser, "forward", self._counted(phases.wrap(NETWORK, denoiser.forward))),
            (pipeline.scheduler, "step", self._ending(pipeline.scheduler.step)),
            (pipeline.vae, "decode", phases.wrap("decode", pipeline.vae.decode)),
        ]
        if hasattr(pipeline, "encode_prompt"):
            watched.append((pipeline, "encode_prompt", phases.wrap("encode", pipeline.encode_prompt)))
        before = [vars(owner).get(name) for owner, name, _ in watched]
        try:
            for owner, name, function in watched:
                vars(owner)[name] = function
            yield
        finally:
            for (owner, name, _), own in zip(watched, before, strict=True):
                vars(owner).pop(name, None)
                if own is not None:
                    vars(owner)[name] = own

    def _counted(self, forward: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(forward)
        def counted(*args: Any, **kwargs: Any) -> Any:
            if not self._in_step:
                self._in_step = True
                self.phases.begin(STEP)
            self._rows += _rows([*args, *kwargs.values()])
            return forward(*args, **kwargs)

        return counted

    def _ending(self, step: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(step)
        def ending(*args: Any, **kwargs: Any) -> Any:
            result = step(*args, **kwargs)
            if self._in_step:
                self._in_step = False
                self.phases.end(STEP)
            return result

        return ending


def _rows(inputs: Iterable[Any]) -> int:
    """The batch of the first input that has one: the latents, a tensor or a list with one for each image."""
    return next(len(x) for x in inputs if isinstance(x, list) or (isinstance(x, Tensor) and x.ndim > 1))


def _assembled(box: BlackBox, networks: Mapping[str, nn.Module]) -> Any:
    """The pipeline around `networks`; tokenizers and scheduler come from their files."""
    kind = getattr(diffusers, box.class_name)
    named = named_parts(read_json(Path(box.folder) / INDEX))
    loaded = {part.name for part in parts_of(Path(box.folder))}
    absent = dict.fromkeys(named.keys() - loaded)
    made = {word: value for word, value in _MADE.items() if word in inspect.signature(kind.__init__).parameters}
    return kind.from_pretrained(box.folder, local_files_only=True, **networks, **absent, **made)


def import_classes(box: BlackBox) -> None:
    """Import what the pipeline is made of, so that its libraries are there before anything is measured or capped."""
    getattr(diffusers, box.class_name)
    for part in parts_of(Path(box.folder)):
        if part.is_network:
            _class_of(part)


def _class_of(part: Part) -> Any:
    modules = {"diffusers": diffusers, "transformers": transformers}
    module = modules.get(part.library) or import_module(f"diffusers.pipelines.{part.library}")
    kind = getattr(module, part.class_name, None)
    if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
        raise KoalaError(f"{part.name}: {part.library} {_version(part)} has no network {part.class_name}; update it")
    return kind


def _version(part: Part) -> str:
    return (transformers if part.library == "transformers" else diffusers).__version__


def _trained_network(kind: Any, folder: Path, device: torch.device | str, dtype: str) -> nn.Module:
    """The network with the weights in its folder, of which none may be missing."""
    word = "dtype" if issubclass(kind, transformers.PreTrainedModel) else "torch_dtype"
    network, report = kind.from_pretrained(
        folder,
        variant="fp16" if is_half(weight_files(folder, dtype)) else None,
        use_safetensors=True,
        local_files_only=True,
        output_loading_info=True,
        **{word: DTYPES[dtype]},
    )
    if missing := sorted(report["missing_keys"]):
        raise KoalaError(f"{folder}: its weights lack {len(missing)} tensors: {first_few(missing)}; fetch them again")
    return network.to(device).eval().requires_grad_(False)


def _random_network(kind: Any, folder: Path, device: torch.device | str, dtype: torch.dtype, seed: int) -> nn.Module:
    """The network of a configuration with random weights, in the dtypes that it would be loaded in."""
    with _default_dtype(dtype), init_empty_weights(include_buffers=False):
        network = _skeleton(kind, folder, dtype)
    for name, module in network.named_modules():
        for key, parameter in module.named_parameters(recurse=False):
            kept = _kept_in_fp32(network, f"{name}.{key}", dtype)
            module._parameters[key] = nn.Parameter(parameter.to(torch.float32 if kept else dtype), False)
    buffers = _taken_buffers(network, dtype)
    materialise(network, device, seed)
    for module, key, buffer in buffers:
        module._buffers[key] = buffer.to(device)
    if isinstance(network, transformers.PreTrainedModel):
        network.tie_weights()
    return network


def _skeleton(kind: Any, folder: Path, dtype: torch.dtype) -> Any:
    if issubclass(kind, transformers.PreTrainedModel):
        return kind._from_config(kind.config_class.from_pretrained(folder), dtype=dtype)
    return kind.from_config(kind.load_config(folder))


def _kept_in_fp32(network: Any, name: str, dtype: torch.dtype) -> bool:
    """Whether a parameter stays in fp32 by the network's own rule: in transformers' some only beside fp16."""
    kept = set(getattr(network, "_keep_in_fp32_modules", None) or ())
    if isinstance(network, transformers.PreTrainedModel):
        strict = set(network._keep_in_fp32_modules_strict or ())
        kept = kept | strict if dtype is torch.float16 else strict
    return any(f".{part}." in f".{name}." for part in kept)


def _taken_buffers(network: nn.Module, dtype: torch.dtype) -> list[tuple[nn.Module, str, Tensor]]:
    """The buffers, computed when the network was built, taken out of it; those that a file would hold in `dtype`."""
    taken = []
    for module in network.modules():
        for key, buffer in module._buffers.items():
            if buffer is not None:
                saved = key not in module._non_persistent_buffers_set and buffer.is_floating_point()
                taken.append((module, key, buffer.to(dtype) if saved else buffer))
                module._buffers[key] = None
    return taken


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def _reading(folder: Path) -> Iterator[None]:
    """Turns what diffusers and transformers raise at files that they cannot read into a `KoalaError`."""
    try:
        yield
    except (OSError, ValueError, ImportError, SafetensorError) as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise KoalaError(f"{folder} cannot be loaded: {reason}") from error
