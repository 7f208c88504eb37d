"""`python -m bench sweep`."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import psutil
import tyro
from rich.console import Console

from bench import estimate, sweep
from bench.case import Case, grid, keeps_its_steps
from bench.isolate import ForkServer
from bench.progress import SweepProgress
from bench.sweeps import AUTO_DTYPE, Sweep, choose
from koala.errors import KoalaError
from koala.harness import environment, records
from koala.harness.cli import INTERRUPTED, stderr_console
from koala.harness.nvml import Nvml
from koala.harness.options import Ints, Names
from koala.models import zoo

EXAMPLES = (
    "python -m bench sweep",
    "python -m bench sweep paper --models koala-700m,sdxl --resolutions 1024",
    "python -m bench sweep --models koala-1b --targets pipeline --steps 4,10 --device cuda:1",
    "python -m bench sweep paper --models koala-700m --targets pipeline --profiles eager,compiled,diffusers-eager",
    "python -m bench sweep cpu --dry-run",
)


@dataclass(frozen=True)
class Options:
    """Measure latency and peak memory of models, one process per case, and print one table.

    Rows are kept as they finish; the same command goes on where it stopped. Exit code 1 if a case failed or
    timed out, 0 if every case was measured, ran out of memory or is not possible here.
    """

    name: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="NAME")] = "auto"
    """Named sweep: auto, cpu, paper, profiles, resolutions or smoke; the flags below select from it and override it."""
    models: Names = ()
    """Models of the zoo (`python -m koala models`), or folders of some that were trained here; tiny-NAME is a small
    twin."""
    targets: Names = ()
    """unet: one denoising step; pipeline: prompt to image."""
    resolutions: Ints = ()
    """Sides of square images, in pixels."""
    batch_sizes: Ints = ()
    """Images per call."""
    dtypes: Names = ()
    """fp32, bf16, fp16."""
    steps: Ints = ()
    """Denoising steps of pipeline cases; default: each model's recipe."""
    profiles: Names = ()
    """Speed profiles, A+B joins two: eager, compiled, low-vram, tiny-vae, fp16-fix, int8, fp8. diffusers-eager is stock
    diffusers, for pipeline cases."""
    device: str = ""
    """cpu, cuda or cuda:N."""
    repeats: int | None = None
    """Least number of samples; more follow until the median is known within 2% or the budget is spent."""
    warmup: int | None = None
    """Calls that are made first and never counted."""
    budget: float | None = None
    """Seconds of sampling per case after which no further sample is taken, once there are enough."""
    timeout: float | None = None
    """Seconds after which a case is given up."""
    out: Path = sweep.DEFAULT_STORE
    """File of rows, .jsonl; tables are written beside it."""
    fresh: bool = False
    """Measure everything again; the old file is kept under another name."""
    dry_run: bool = False
    """Print the cases with rough memory and time, and measure nothing."""


def run(options: Options) -> int:
    """Run the sweep; the exit code says whether a case failed."""
    console = stderr_console()
    if options.out.suffix != ".jsonl":
        raise KoalaError(f"--out must name a .jsonl file, for tables are written beside it; not {options.out}")
    plan = overridden(choose(options.name, 0 if options.device == "cpu" else visible_gpus()), options)
    here = environment.collect(plan.device)
    cases_of(plan, tuple(d for d in plan.dtypes if d != AUTO_DTYPE) or ("fp32",))  # mistakes cost no server
    server = server_for(plan.device, console)
    with console.status("starting the measuring server (imports torch and diffusers once)"):
        cases = expand(plan, server)
    remark_fixed_steps(plan, console)
    if plan.only_what_fits and not options.models:
        cases = only_what_fits(cases, psutil.virtual_memory().available, console)
    store = records.read([options.out]) if options.out.exists() and not options.fresh else records.Records()
    report_problems(store, console)
    finished = sweep.finished_rows(store, cases, here)
    to_do = [case for case in cases if case not in finished]
    if options.dry_run:
        return dry_run(server, cases, finished, plan, options.out)
    if options.fresh and options.out.exists():
        console.print(f"the old rows are kept in {records.set_aside(options.out)}")
    if finished:
        console.print(f"{len(finished)} of {len(cases)} cases are measured already (--fresh measures them again)")
    code = measure(to_do, plan, options, server, console) if to_do else 0
    print_table(cases, here, options.out)
    return code


def visible_gpus() -> int:
    """NVIDIA GPUs that this torch could use."""
    return Nvml().count() if environment.torch_cuda_version() else 0


def server_for(device: str, console: Console) -> ForkServer:
    """A server of forks; of fresh interpreters where forks could not use the GPU."""
    server = ForkServer()
    if device != "cpu" and server.call("bench.worker:gpu_survives_fork").result != {"usable": True}:
        console.print("forked processes cannot use this GPU: every case starts a fresh interpreter (seconds each)")
        return ForkServer(fork=False)
    return server


def overridden(plan: Sweep, options: Options) -> Sweep:
    """The named sweep with the flags that were given."""
    given = {
        name: getattr(options, name)
        for name in ("models", "targets", "resolutions", "batch_sizes", "dtypes", "steps", "profiles", "device")
        if getattr(options, name)
    }
    rule: dict[str, Any] = {"repeats": options.repeats, "warmup": options.warmup, "budget_s": options.budget}
    for name, least in (("repeats", 1), ("warmup", 0), ("budget", 0), ("timeout", 0)):
        value = getattr(options, name)
        if value is not None and value < least:
            raise KoalaError(f"--{name} must be at least {least}, not {value}")
    return replace(
        plan,
        **given,
        rule=replace(plan.rule, **{name: value for name, value in rule.items() if value is not None}),
        timeout_s=plan.timeout_s if options.timeout is None else options.timeout,
    )


def expand(plan: Sweep, server: ForkServer) -> list[Case]:
    """The cases of a sweep; a dtype left to the machine is probed."""
    dtypes = plan.dtypes
    if AUTO_DTYPE in dtypes:
        dtypes = (estimate.fast_dtype(server, plan.device),)
    return cases_of(plan, dtypes)


def cases_of(plan: Sweep, dtypes: tuple[str, ...]) -> list[Case]:
    """The cases of a sweep in these dtypes; an error where there are none."""
    cases = grid(
        plan.models,
        plan.targets,
        plan.resolutions,
        plan.batch_sizes,
        dtypes,
        plan.steps,
        plan.device,
        plan.profiles,
    )
    if not cases:
        raise KoalaError(f"{', '.join(plan.profiles)} goes from prompt to image; add --targets pipeline")
    return cases


def remark_fixed_steps(plan: Sweep, console: Console) -> None:
    """Say on stderr which models keep their own steps although others were asked for."""
    for spec in map(zoo.get, plan.models if "pipeline" in plan.targets else ()):
        if keeps_its_steps(spec) and set(plan.steps) - {spec.recipe.steps}:
            timesteps = ", ".join(map(str, spec.recipe.timesteps or ()))
            console.print(f"{spec.name} is trained for the timesteps {timesteps}: it keeps its own number of steps")


def only_what_fits(cases: Sequence[Case], free_bytes: int, console: Console) -> list[Case]:
    """The cases whose model fits into the free memory; the others are named on stderr."""
    for case in cases:
        if not estimate.fits(case, free_bytes):
            free = f"{free_bytes / 2**30:.1f} GiB"
            console.print(
                f"left out: {case.label} does not fit into {free} of free memory (--models measures it anyway)"
            )
    kept = [case for case in cases if estimate.fits(case, free_bytes)]
    if not kept:
        raise KoalaError("no model of this sweep fits into the free memory; try `python -m bench sweep smoke`")
    return kept


def dry_run(
    server: ForkServer, cases: Sequence[Case], finished: dict[Case, records.Row], plan: Sweep, out: Path
) -> int:
    """Print what would be measured, with rough bytes and seconds."""
    import pandas as pd

    from koala.harness.tables import gib, significant, to_markdown

    costs = estimate.count_costs(server, cases)
    guesses = estimate.estimates(server, cases, costs, plan.rule)
    frame = pd.DataFrame(
        {
            "case": [case.label for case in cases],
            "state": ["measured" if case in finished else "to do" for case in cases],
            "about [GiB]": [guess.memory_bytes for guess in guesses],
            "about [s]": [guess.seconds for guess in guesses],
        }
    )
    print(to_markdown(frame, {"about [GiB]": gib, "about [s]": significant(2)}))
    left = sum(g.seconds for case, g in zip(cases, guesses, strict=True) if case not in finished)
    print(f"\n{len(cases)} cases, {len(finished)} measured already in {out}; about {left / 60:.1f} minutes to go.")
    print("Rough: U-Net FLOPs at a probed matrix rate; memory counts the U-Net with unfused attention.")
    return 0


def measure(cases: Sequence[Case], plan: Sweep, options: Options, server: ForkServer, console: Console) -> int:
    """Measure `cases` with progress on stderr; the exit code."""
    costs, expected = {}, [0.0] * len(cases)
    with console.status("counting what the cases cost"), warn_only(console):
        costs = estimate.count_costs(server, cases)
        expected = [guess.seconds for guess in estimate.estimates(server, cases, costs, plan.rule)]
    with SweepProgress(expected, console) as progress:
        try:
            rows = sweep.run(cases, plan.rule, plan.timeout_s, options.out, server, progress, costs)
        except KeyboardInterrupt:
            console.print(
                f"interrupted: {progress.done} of {len(cases)} cases are kept in {options.out}; "
                "the same command goes on from there"
            )
            return INTERRUPTED
    return 0 if all(row["status"] in sweep.FINISHED for row in rows) else 1


@contextmanager
def warn_only(console: Console) -> Iterator[None]:
    """An estimate that fails is a remark, and the sweep goes on without it."""
    try:
        yield
    except KoalaError as error:
        console.print(f"no estimate: {error}", markup=False)


def print_table(cases: Sequence[Case], here: records.Row, out: Path) -> None:
    """Print this sweep's rows as markdown, and write all rows of the file as CSV and markdown beside it."""
    from bench.report.table import latest_rows, render_markdown, to_frame
    from koala.harness.files import write_whole
    from koala.harness.tables import to_csv

    store = records.read([out])
    rows = latest_rows(store)
    wanted = {sweep.case_key(case, here) for case in cases}
    print(render_markdown(to_frame([r for r in rows if sweep.row_key(r, store) in wanted], store)))
    everything = to_frame(rows, store)
    write_whole(out.with_suffix(".csv"), to_csv(everything))
    write_whole(out.with_suffix(".md"), render_markdown(everything))
    print(f"rows: {out}, tables: {out.with_suffix('.csv')}, {out.with_suffix('.md')}", file=sys.stderr)


def report_problems(store: records.Records, console: Console) -> None:
    """Say on stderr which lines were skipped."""
    for problem in store.problems:
        console.print(f"warning: {problem}", markup=False)
