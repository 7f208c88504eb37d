"""`python -m bench check`."""

from collections.abc import Sequence
from dataclasses import dataclass

EXAMPLES = ("python -m bench check", "python -m bench check --device cuda:1", "python -m bench check --device cpu")
_COLOURS = {"ok": "green", "note": "yellow", "change": "bold red"}


@dataclass(frozen=True)
class Options:
    """Examine this machine before a sweep and say what to change, one line each.

    Exit code 1 if something is to change, 0 if nothing is.
    """

    device: str = ""
    """cpu, cuda or cuda:N; default: the first GPU that torch could use, or the CPU."""


def run(options: Options) -> int:
    """Look for a second and print what was found."""
    from bench.check import findings
    from bench.machine import gather

    found = findings(gather(options.device or default_device()))
    print_findings(found)
    return 1 if any(finding.level == "change" for finding in found) else 0


def default_device() -> str:
    """What `python -m bench sweep` would measure on: "cuda" where torch could use a GPU."""
    from koala.harness import environment
    from koala.harness.nvml import Nvml

    return "cuda" if environment.torch_cuda_version() and Nvml().count() else "cpu"


def print_findings(found: "Sequence") -> None:
    """One line a finding on stdout: its level, what was found, and what to do."""
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False, soft_wrap=True)
    width = max((len(finding.subject) for finding in found), default=0)
    for finding in found:
        fix = f" -> {finding.fix}" if finding.fix else ""
        line = Text(f"{finding.level:<6}", style=_COLOURS[finding.level])
        console.print(line.append(f"  {finding.subject:<{width}}  {finding.found}{fix}", style="none"))
