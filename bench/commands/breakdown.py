"""`python -m bench breakdown`."""

import json
import re
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console

from bench import estimate
from bench.case import Case
from bench.commands.sweep import server_for, visible_gpus
from bench.isolate import ForkServer, Message
from koala.errors import KoalaError
from koala.harness import environment
from koala.harness.cli import stderr_console
from koala.models import zoo
from koala.models.spec import ModelSpec

MEASURE = "bench.breakdown:measure_breakdown"
DEFAULT_FOLDER = Path("runs/bench/breakdown")
CPU_RESOLUTION = 256
EXAMPLES = (
    "python -m bench breakdown koala-700m",
    "python -m bench breakdown sdxl --resolution 1024 --dtype fp16 --device cuda",
    "python -m bench breakdown tiny-sdxl --repeats 9 --out where-the-time-goes",
)


@dataclass(frozen=True)
class Options:
    """Where the time of one denoising step goes: by kind of layer and by stage, with text encoding and VAE decoding.

    Prints tables; writes breakdown.csv, .json, .svg and .png and a Chrome trace (trace.json, for
    https://ui.perfetto.dev). Exit code 1 if it does not fit into memory or fails.
    """

    model: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="MODEL")]
    """A model of the zoo (`python -m koala models`), or the folder of one that was trained here."""
    resolution: int | None = None
    """Side of the square image in pixels; default: the model's own on a GPU, at most 256 on a CPU."""
    batch_size: int = 1
    """Images per call; a guided recipe runs two rows an image."""
    dtype: str = ""
    """fp32, bf16 or fp16; default: fp16 on a GPU, what is fast on this CPU."""
    device: str = ""
    """cpu, cuda or cuda:N; default: the first GPU, else the CPU."""
    repeats: int | None = None
    """Samples of everything; default: as many as take about 20 s, from 3 to 21."""
    out: Path | None = None
    """Folder of the files; default: runs/bench/breakdown/MODEL-RESOLUTION-DTYPE."""
    weights: str = ""
    """random, hub or a folder; default: random, or the folder of a model that was trained here."""


def run(options: Options) -> int:
    """Measure in a fresh process, print the tables and write the files."""
    console = stderr_console()
    spec = zoo.get(options.model)
    if options.repeats is not None and options.repeats < 1:
        raise KoalaError(f"--repeats must be at least 1, not {options.repeats}")
    device = options.device or ("cuda" if visible_gpus() else "cpu")
    here = environment.collect(device)
    case_of(spec, options, device, options.dtype or "fp32")  # mistakes cost no server
    server = server_for(device, console)
    with console.status("starting the measuring server (imports torch and diffusers once)"):
        case = case_of(spec, options, device, options.dtype or estimate.fast_dtype(server, device))
    folder = made(options.out or DEFAULT_FOLDER / folder_name(case))
    measured = measure(case, options.repeats, server, console)
    if measured is None:
        return 1
    report({"case": asdict(case), "environment": here, **measured}, folder, console)
    return 0


def case_of(spec: ModelSpec, options: Options, device: str, dtype: str) -> Case:
    """One denoising step as the options want it."""
    own = spec.resolution if device != "cpu" else min(CPU_RESOLUTION, spec.resolution)
    return Case(
        model=spec.name,
        target="unet",
        resolution=options.resolution or own,
        batch_size=options.batch_size,
        dtype=dtype,
        steps=None,
        device=device,
        weights=options.weights or spec.home or "random",
    )


def folder_name(case: Case) -> str:
    """ "koala-700m-256-fp32", with the batch size where it is not 1."""
    name = re.sub(r"[^\w.-]+", "-", case.model)
    batch = f"-x{case.batch_size}" if case.batch_size > 1 else ""
    return f"{name}-{case.resolution}-{case.dtype}{batch}"


def made(folder: Path) -> Path:
    """The folder, which can be written to: found out before anything is measured."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise KoalaError(f"cannot write {folder}: {error.strerror}") from error
    return folder


def measure(case: Case, repeats: int | None, server: ForkServer, console: Console) -> Message | None:
    """What was measured; null where there is nothing, which stderr then says why."""
    with console.status(f"{case.label}: starting") as status:

        def show(message: Message) -> None:
            status.update(f"{case.label}: {message['doing']}")

        outcome = server.call(MEASURE, asdict(case), repeats, on_message=show)
    result: dict[str, Any] = outcome.result or {}
    if result.get("status") == "ok":
        return result
    if result.get("status") == "mistake":
        raise KoalaError(result["reason"])
    reason = result.get("reason", outcome.reason)
    verdict = "does not fit" if outcome.killed_for_memory or result else "failed"
    console.print(f"{case.label} {verdict}: {reason}", markup=False)
    return None


def report(result: dict[str, Any], folder: Path, console: Console) -> None:
    """Print the tables and write every file."""
    from bench.report import breakdown, breakdown_figure
    from koala.harness.files import write_whole
    from koala.harness.tables import to_csv

    frame = breakdown.cells_frame(result)
    write_whole(folder / "breakdown.csv", to_csv(frame))
    write_whole(folder / "breakdown.json", json.dumps(result))
    write_whole(folder / "trace.json", json.dumps(breakdown.trace_events(result)))
    breakdown_figure.draw(result, folder)
    print(breakdown.render_markdown(result))
    for remark in breakdown.remarks(result):
        console.print(f"remark: {remark}", markup=False)
    print(f"files: {folder}/breakdown.csv, .json, .svg, .png and trace.json", file=sys.stderr)
