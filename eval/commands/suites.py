"""`python -m eval suites`."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from koala.errors import KoalaError
from koala.harness.cli import stderr_console

if TYPE_CHECKING:
    from eval.prompts.entry import Entry

_STATUSES = ("another file", "missing", "unverified", "verified")  # a suite's is the first of its files'
EXAMPLES = (
    "python -m eval suites",
    "python -m eval suites geneval partiprompts --fetch",
    "python -m eval suites hpsv2 --json",
)


@dataclass(frozen=True)
class Options:
    """List the prompt suites: how many prompts each has, its licence, and whether its files are on this machine.

    The exit code is 2 if a file could not be fetched.
    """

    names: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="[NAMES...]")] = ()
    """Suites by name; default: all."""
    fetch: bool = False
    """Fetch the files that are missing from their official addresses."""
    json: bool = False
    """Print JSON, one object a suite with its files and notes."""


def run(options: Options) -> int:
    """Print the table; with `fetch`, after fetching what is missing."""
    from eval.prompts.load import entry, names

    entries = [entry(name) for name in dict.fromkeys(options.names or names())]
    unfetched = fetch_missing(entries) if options.fetch else 0
    lines = [line(each) for each in entries]
    print(json.dumps(lines, indent=1) if options.json else markdown(lines))
    return 2 if unfetched else 0


def fetch_missing(entries: Sequence["Entry"]) -> int:
    """Fetch what is nowhere; how many files could not be had. One that fails does not stop the others."""
    from eval.prompts.places import fetch, find

    console, failed = stderr_console(), 0
    for entry in entries:
        for file in entry.files:
            try:
                find(entry, file)
                continue
            except KoalaError:
                pass
            try:
                print(f"fetched {fetch(entry, file, console)}", file=sys.stderr)
            except KoalaError as error:
                print(f"not fetched: {error}", file=sys.stderr)
                failed += 1
    return failed


def line(entry: "Entry") -> dict[str, Any]:
    """What is known of a suite and where its files are."""
    files = [_file_line(entry, file) for file in entry.files]
    status = min((file["status"] for file in files), key=_STATUSES.index) if files else "inline"
    return {
        "name": entry.name,
        "title": entry.title,
        "prompts": entry.count,
        "license": entry.license,
        "status": status,
        "source": entry.source,
        "notes": entry.notes,
        "files": files,
    }


def _file_line(entry: "Entry", file: Any) -> dict[str, Any]:
    from eval.prompts.places import find, places, stored

    facts = {"file": file.path, "role": file.role, "url": file.url, "sha256": file.sha256}
    try:
        found = find(entry, file)
    except KoalaError:
        there = next((path for path in places(entry, file) if path.exists()), None)
        status = "another file" if there else "missing"
        return {**facts, "status": status, "path": str(there) if there else None, "put_at": str(stored(entry, file))}
    status = "verified" if found.verified else "unverified"
    return {**facts, "status": status, "path": str(found.path), "put_at": str(found.path)}


def _place(entry: dict[str, Any]) -> str:
    """Where the files are that give a suite its status, or where to put them."""
    places = [file["path"] or file["put_at"] for file in entry["files"] if file["status"] == entry["status"]]
    more = f" and {len(places) - 1} more" if len(places) > 1 else ""
    return f"{places[0]}{more}" if places else "in this package"


def markdown(lines: Sequence[dict[str, Any]]) -> str:
    """The table, and what its words mean."""
    import pandas as pd

    from koala.harness.tables import to_markdown

    shown = [
        {
            "suite": entry["name"],
            "title": entry["title"],
            "prompts": entry["prompts"],
            "licence": entry["license"],
            "here": entry["status"],
            "where, or where to put it": _place(entry),
        }
        for entry in lines
    ]
    return to_markdown(pd.DataFrame(shown)) + (
        "\n\ninline: in this package; verified: the official file, by its sha256; unverified: a file of that name,"
        "\nwhose official hash is not known; missing: nowhere on this machine; another file: of that"
        "\nname, but with another hash. Files are also looked for in DIR/SUITE/ where KOALA_SUITES=DIR."
        "\nAddresses, hashes and notes: --json."
    )
