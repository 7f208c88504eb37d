"""The feature term of distillation: each of a student's features against its teacher's as soon as it is there."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from koala.distill.losses import feature_distance
from koala.distill.matching import Pair
from koala.distill.taps import Taps


class FeatureLoss:
    """Taps on the paired modules of two U-Nets, and what their outputs differ by.

    For each micro-batch: run the teacher inside `teacher()`, then the student inside `student()`, then `take()`. A
    feature of the teacher lives until the student's is compared with it.

    Give it the bare networks, with their adapters if they get any, before they run. What runs inside the blocks may be
    the same networks in DDP, FSDP or torch.compile, wrapped at any time before their first run; gradient checkpointing
    must be the non-reentrant kind, which is diffusers' own. With DDP and FSDP the task or the output term has to be in
    the loss too: only the network's own output reaches all of its weights.
    """

    def __init__(self, pairs: Iterable[Pair], student: nn.Module, teacher: nn.Module) -> None:
        self.pairs = tuple(pairs)
        self._held: dict[Pair, Tensor] = {}
        self._distances: dict[Pair, Tensor] = {}
        self._with_gradients = False
        with ExitStack() as taps:
            self._teacher = taps.enter_context(self._taps(teacher, lambda pair: pair.teacher, self._hold))
            self._student = taps.enter_context(self._taps(student, lambda pair: pair.student, self._compare))
            self._stack = taps.pop_all()

    def remove(self) -> None:
        """Take the hooks out of both networks."""
        self._stack.close()

    @contextmanager
    def teacher(self) -> Iterator[None]:
        """Collects the teacher's features."""
        self._held.clear()
        self._distances.clear()
        with self._teacher.collecting():
            yield
        missing = [pair.teacher for pair in self.pairs if pair not in self._held]
        assert not missing, f"the teacher never ran {missing}"

    @contextmanager
    def student(self) -> Iterator[None]:
        """Compares each of the student's features with the teacher's, which it drops."""
        assert len(self._held) == len(self.pairs), "the teacher comes first"
        self._with_gradients = torch.is_grad_enabled()
        try:
            with self._student.collecting():
                yield
            missing = [pair.student for pair in self._held]
            assert not missing, f"the student never ran {missing}"
        finally:
            self._held.clear()

    def take(self) -> dict[str, Tensor]:
        """The sum over all pairs as "feature" and over each stage as "feature/UP-1" ..., to differentiate; once."""
        assert self._distances, "the student comes first"
        sums: dict[str, Tensor] = {}
        for pair, distance in self._distances.items():
            for name in ("feature", f"feature/{pair.stage}"):
                sums[name] = sums[name] + distance if name in sums else distance
        self._distances.clear()
        return sums

    def _taps(self, network: nn.Module, path: Callable[[Pair], str], act: Callable[[Pair, Tensor], None]) -> Taps:
        """Taps that call `act` for each pair that a module belongs to."""
        of_module: Mapping[str, list[Pair]] = defaultdict(list)
        for pair in self.pairs:
            of_module[path(pair)].append(pair)

        def on_output(name: str, feature: Tensor) -> None:
            for pair in of_module[name]:
                act(pair, feature)

        return Taps(network, of_module, on_output)

    def _hold(self, pair: Pair, feature: Tensor) -> None:
        assert pair not in self._held, f"the teacher ran {pair.teacher} twice"
        self._held[pair] = feature.detach()

    def _compare(self, pair: Pair, feature: Tensor) -> None:
        assert pair in self._held, f"the student ran {pair.student} twice"
        assert torch.is_grad_enabled() == self._with_gradients, "reentrant gradient checkpointing hides features"
        self._distances[pair] = feature_distance(feature, self._held.pop(pair))
