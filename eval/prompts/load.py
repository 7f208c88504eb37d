"""Entry or file -> suite, with its counts and hashes checked."""

from dataclasses import replace
from pathlib import Path

from eval.prompts.entry import PROMPTS, START_LATENTS, Entry, read_entry
from eval.prompts.formats import prompt_text, read, require_printable
from eval.prompts.own import own_suite
from eval.prompts.places import find
from eval.suite import Prompt, Suite, counted
from koala.errors import KoalaError, UnknownName

FOLDER = Path(__file__).parents[1] / "suites"


def names() -> list[str]:
    """The suites that this project knows."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def entry(name: str) -> Entry:
    """What the TOML file of a suite says."""
    if name not in names():
        raise UnknownName("suite", name, names())
    return read_entry(FOLDER / f"{name}.toml")


def load(suite: str | Path) -> Suite:
    """A suite by its name, or a user's own file by its path."""
    path = Path(suite).expanduser()
    if str(suite) in names():
        return of_entry(entry(str(suite)))
    if path.suffix.lower() == ".toml" and path.is_file():
        return of_entry(replace(read_entry(path), folder=path.parent))
    if path.suffix or path.exists() or "/" in str(suite):
        return own_suite(path)
    raise UnknownName("suite", str(suite), names())


def of_entry(entry: Entry) -> Suite:
    """The suite that an entry describes; a `KoalaError` where a file is missing, is another one, or holds too few."""
    if entry.inline:
        prompts = [_counted(prompt, f"{entry.name}, prompt {n}") for n, prompt in enumerate(entry.inline, start=1)]
    else:
        prompts = []
        for file in entry.files:
            if file.role == PROMPTS:
                found = read(find(entry, file).path, file)
                _check_count(len(found), file.prompts, f"{entry.title}, {file.path}")
                prompts += found
    _check_count(len(prompts), entry.count, entry.title)
    return Suite(entry.name, entry.title, entry.license, entry.source, tuple(prompts), entry.notes)


def start_latents(name: str) -> Path | None:
    """The file of the latents that a suite's images begin with, where it prescribes any."""
    known = entry(name)
    return next((find(known, file).path for file in known.files if file.role == START_LATENTS), None)


def limited(suite: Suite, n: int) -> Suite:
    """`n` prompts spread evenly over the suite's order, which is by category where there are any."""
    if n < 1:
        raise KoalaError(f"--limit must be at least 1, not {n}")
    total = len(suite.prompts)
    if n >= total:
        return suite
    return replace(suite, prompts=tuple(suite.prompts[place * total // n] for place in range(n)))


def _counted(prompt: Prompt, where: str) -> Prompt:
    tags = {**prompt.tags, **counted(prompt.expects)}
    return require_printable(replace(prompt, text=prompt_text(prompt.text, where), tags=tags), where)


def _check_count(there: int, expected: int | None, what: str) -> None:
    if expected is not None and there != expected:
        raise KoalaError(f"{what} holds {there} prompts, and should hold {expected}: is the file whole?")
