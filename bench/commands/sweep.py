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

from bench import estimate, gpus, sweep
from bench.case import Case, grid, keeps_its_steps
from bench.isolate import ForkServer
from bench.progress import SweepProgress
from bench.sweep import Job
from bench.sweeps import AUTO_DTYPE, Sweep, choose
from koala.errors import KoalaError
from koala.harness import environment, records
from koala.harness.cli import INTERRUPTED, stderr_console
from koala.harness.nvml import Nvml
from koala.harness.options import Cards, Ints, Names
from koala.models import zoo

EXAMPLES = (
    "python -m bench sweep",
    "python -m bench sweep paper --models koala-700m,sdxl --resolutions 1024",
    "python -m bench sweep --models koala-1b --targets pipeline --steps 4,10 --device cuda:1",
    "python -m bench sweep paper --models koala-700m --targets pipeline --profiles eager,compiled,diffusers-eager",
    "python -m bench sweep --models koala-700m,sdxl --targets pipeline --vram 8GiB,11GiB --profiles eager,low-vram",
    "python -m bench sweep --pipeline my-pixart-folder --resolutions 512 --steps 20",
    "python -m bench sweep smoke --processes 3",
    "python -m bench sweep cpu --dry-run",
)


@dataclass(frozen=True)
class Options:
    """Measure latency and peak memory of models, one process per case, and print one table.

    Rows are kept as they finish; the same command goes on where it stopped. Exit code 1 if a case failed or
    timed out, 0 if every case was measured, ran out of memory or is not possible here.
    """

    name: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="NAME")] = "auto"
    """Named sweep: auto, cpu, paper, profiles, cards, batches, resolutions or smoke; the flags below select from it and
    override it."""
    models: Names = ()
    """Models of the zoo (`python -m koala models`), a pattern such as 'koala-*', or folders of some that were
    trained here; tiny-NAME is a small twin."""
    pipeline: Names = ()
    """Any diffusers text-to-image pipelines as black boxes, by folder or hub id; alone, or beside --models. A folder of
    configurations without weights gets random ones."""
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
    vram: Cards = ()
    """Stand for smaller cards: every case under a hard cap of that much memory. none: the device as it is."""
    device: str = ""
    """cpu, cuda or cuda:N."""
    processes: int | None = None
    """Fresh processes that measure each case; 3 or more show how much runs differ, which `bench compare` needs."""
    repeats: int | None = None
    """Least number of samples; more follow until the median is known within 2% and the noise has shown what it has, or
    the budget is spent."""
    warmup: int | None = None
    """Least number of calls that are made first and never counted; more are left out while they get faster."""
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
    jobs = sweep.jobs_of(cases, plan.processes)
    finished = sweep.finished_rows(store, jobs, here)
    to_do = [job for job in jobs if job not in finished]
    if options.dry_run:
        return dry_run(server, jobs, finished, plan, options.out)
    if options.fresh and options.out.exists():
        console.print(f"the old rows are kept in {records.set_aside(options.out)}")
    if finished:
        count = f"{len(finished)} of {len(jobs)} {'cases' if plan.processes == 1 else 'processes'}"
        console.print(f"{count} are measured already (--fresh measures them again, as after other --repeats)")
    peaks = _peaks(server, here, sweep.earlier_peaks(store, here), console)
    code = measure(to_do, plan, options, server, console, peaks) if to_do else 0
    print_table(jobs, here, options.out)
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
        for name in ("models", "targets", "resolutions", "batch_sizes", "dtypes", "steps", "profiles", "vram", "device")
        if getattr(options, name)
    }
    if options.models:
        given["models"] = zoo.matching(options.models)
    if options.pipeline:
        if not options.models and (options.profiles or options.targets):
            raise KoalaError("a pipeline is timed as it comes, prompt to image: --profiles and --targets need --models")
        given = {"models": ()} | given | {"pipelines": options.pipeline}
    rule: dict[str, Any] = {"repeats": options.repeats, "warmup": options.warmup, "budget_s": options.budget}
    for name, least in (("repeats", 1), ("warmup", 0), ("budget", 0), ("timeout", 0), ("processes", 1)):
        value = getattr(options, name)
        if value is not None and value < least:
            raise KoalaError(f"--{name} must be at least {least}, not {value}")
    if options.timeout == 0:
        raise KoalaError("--timeout must be more than 0 seconds")
    return replace(
        plan,
        **given,
        rule=replace(plan.rule, **{name: value for name, value in rule.items() if value is not None}),
        timeout_s=plan.timeout_s if options.timeout is None else options.timeout,
        processes=plan.processes if options.processes is None else options.processes,
    )


def expand(plan: Sweep, server: ForkServer) -> list[Case]:
    """The cases of a sweep; a dtype left to the machine is probed."""
    dtypes = plan.dtypes
    if AUTO_DTYPE in dtypes:
        dtypes = (estimate.fast_dtype(server, plan.device),)
    return cases_of(plan, dtypes)


def cases_of(plan: Sweep, dtypes: tuple[str, ...]) -> list[Case]:
    """The cases of a sweep in these dtypes; an error where there are none."""
    cases = grid(plan.axes(dtypes))
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


def dry_run(server: ForkServer, jobs: Sequence[Job], finished: dict[Job, records.Row], plan: Sweep, out: Path) -> int:
    """Print what would be measured, with rough bytes and seconds."""
    import pandas as pd

    from koala.harness.tables import gib, significant, to_markdown

    cases = [job.case for job in jobs]
    guesses = estimate.estimates(server, cases, estimate.count_costs(server, cases), plan.rule)
    frame = pd.DataFrame(
        {
            "case": [case.label for case in cases],
            "process": [job.process + 1 if plan.processes > 1 else None for job in jobs],
            "state": ["measured" if job in finished else "to do" for job in jobs],
            "about [GiB]": [guess and guess.memory_bytes for guess in guesses],
            "about [s]": [guess and guess.seconds for guess in guesses],
        }
    )
    print(to_markdown(frame, {"process": str, "about [GiB]": gib, "about [s]": significant(2)}))
    left = sum(g.seconds for job, g in zip(jobs, guesses, strict=True) if g and job not in finished)
    done = f"{len(jobs)} cases, {len(finished)} measured already in {out}"
    unknown = sum(guess is None for guess in guesses)
    print(f"\n{done}; about {left / 60:.1f} minutes to go{f', and {unknown} without an estimate' if unknown else ''}.")
    print("Rough: FLOPs at a probed matrix rate; memory is weights and the most activations, without a GPU's context.")
    return 0


def measure(
    jobs: Sequence[Job], plan: Sweep, options: Options, server: ForkServer, console: Console, peaks: sweep.Peaks
) -> int:
    """Measure `jobs` with progress on stderr; the exit code."""
    cases = [job.case for job in jobs]
    costs, expected = {}, [0.0] * len(jobs)
    with console.status("counting what the cases cost"), warn_only(console):
        costs = estimate.count_costs(server, cases)
        expected = [g.seconds if g else 0.0 for g in estimate.estimates(server, cases, costs, plan.rule)]
    with SweepProgress(expected, console) as progress:
        try:
            how = sweep.Plan(plan.rule, plan.timeout_s, costs, peaks)
            rows = sweep.run(jobs, how, options.out, server, progress)
        except KeyboardInterrupt:
            console.print(
                f"interrupted: {progress.done} of {len(jobs)} cases are kept in {options.out}; "
                "the same command goes on from there"
            )
            return INTERRUPTED
    return 0 if all(row["status"] in sweep.FINISHED for row in rows) else 1


def _peaks(server: ForkServer, here: records.Row, earlier: dict[str, records.Row], console: Console) -> sweep.Peaks:
    """What the device can do at most in a case's dtype: as an earlier row has it, from the table of GPUs, or probed."""

    def of(case: Case) -> records.Row | None:
        if case.dtype not in earlier:
            # A line and no spinner: a progress bar is live on this console, and older rich has room for one alone.
            if gpus.known(here["device_name"]) is None:
                console.print(f"probing what this device can do in {case.dtype}")
            earlier[case.dtype] = gpus.peak(server, case.device, here["device_name"], case.dtype)
        return earlier[case.dtype]

    return of


@contextmanager
def warn_only(console: Console) -> Iterator[None]:
    """An estimate that fails is a remark, and the sweep goes on without it."""
    try:
        yield
    except KoalaError as error:
        console.print(f"no estimate: {error}", markup=False)


def print_table(jobs: Sequence[Job], here: records.Row, out: Path) -> None:
    """Print this sweep's rows as markdown, and write all rows of the file as CSV and markdown beside it."""
    from bench.report.frame import latest_rows, to_frame
    from bench.report.table import render_markdown
    from koala.harness.files import write_whole
    from koala.harness.tables import to_csv

    store = records.read([out])
    rows = latest_rows(store)
    wanted = {sweep.case_key(job.case, here, job.process) for job in jobs}
    print(render_markdown(to_frame([r for r in rows if sweep.row_key(r, store) in wanted], store)))
    everything = to_frame(rows, store)
    write_whole(out.with_suffix(".csv"), to_csv(everything))
    write_whole(out.with_suffix(".md"), render_markdown(everything))
    print(f"rows: {out}, tables: {out.with_suffix('.csv')}, {out.with_suffix('.md')}", file=sys.stderr)


def report_problems(store: records.Records, console: Console) -> None:
    """Say on stderr which lines were skipped."""
    for problem in store.problems:
        console.print(f"warning: {problem}", markup=False)
