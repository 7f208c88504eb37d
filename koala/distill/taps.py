"""Outputs of modules inside a network, collected by forward hooks while it runs."""

import difflib
import sys
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from koala.errors import KoalaError

_WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}  # DDP, compile, FSDP1
_ONCE = "skip_fwd_side_effects_in_bwd_under_checkpoint"
_CLOSE = 3  # names in an error

OnOutput = Callable[[str, Tensor], None]


class Taps:
    """Hooks on the named modules of a network, in place until `remove` or the end of a `with` block.

    They act only inside `collecting()`: gradient checkpointing, which runs modules again during the backward pass,
    fires nothing. Names are those of the bare network, whatever wraps it or its parts (DDP, FSDP, torch.compile,
    checkpoint wrappers); the hooks stay with its modules, so it may also be wrapped later. It must not have run
    compiled before: torch.compile sees only hooks that were there at its first call.
    """

    def __init__(self, network: nn.Module, names: Iterable[str], on_output: OnOutput | None = None) -> None:
        self._on_output, self._handles = on_output, list[RemovableHandle]()
        self._take: OnOutput | None = None  # None: not collecting
        self._traced = list[tuple[str, Tensor]]()
        known = named_modules(network)
        try:
            for name in names:
                if name not in known:
                    raise unknown_module("network", name, known)
                self._handles.append(known[name].register_forward_hook(partial(self._on_forward, name)))
        except BaseException:
            self.remove()
            raise

    def __enter__(self) -> "Taps":
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    def remove(self) -> None:
        """Take all hooks away."""
        while self._handles:
            self._handles.pop().remove()

    @contextmanager
    def collecting(self) -> Iterator[dict[str, Tensor]]:
        """Hand each output to `on_output` as it arrives and keep none; without one, the dict that fills with them.

        Of a tuple it is the first item. A compiled network cannot call back: its outputs arrive when the block ends.
        """
        outputs: dict[str, Tensor] = {}
        assert self._take is None, "already collecting"
        self._take = self._on_output or outputs.__setitem__
        try:
            with _noted_once():
                yield outputs
            while self._traced:
                self._take(*self._traced.pop(0))
        finally:
            self._take = None
            self._traced.clear()

    def _on_forward(self, name: str, module: nn.Module, inputs: tuple, output: object) -> None:
        if self._take is None:
            return
        feature = output[0] if isinstance(output, tuple) else output
        assert isinstance(feature, Tensor), f"{name} gives {type(feature).__name__}, no tensor"
        if torch.compiler.is_compiling():
            self._traced.append((name, feature))
        else:
            self._take(name, feature)


@contextmanager
def _noted_once() -> Iterator[None]:
    """Under checkpointing a compiled graph may note an output once, in the forward pass, which is all we want."""
    compiler = sys.modules.get("torch._dynamo")  # nothing is compiled where nobody has imported it
    if compiler is None or not hasattr(compiler.config, _ONCE):
        yield
        return
    with compiler.config.patch(**{_ONCE: True}):
        yield


def named_modules(network: nn.Module) -> dict[str, nn.Module]:
    """Every module by its path in the bare network; of a wrapper and the module that it wraps, the latter."""
    return {
        ".".join(part for part in path.split(".") if part not in _WRAPPERS): module
        for path, module in network.named_modules(remove_duplicate=False)
    }


def unknown_module(owner: str, name: str, known: Collection[str]) -> KoalaError:
    """The error of a path that leads to no module that runs, with those that are spelt alike."""
    close = difflib.get_close_matches(name, known, n=_CLOSE, cutoff=0.0)
    return KoalaError(f"the {owner} has no module {name!r} with an output; the nearest are {', '.join(close)}")
