"""One file from an address, with a progress bar."""

import http.client
import urllib.request
from pathlib import Path, PurePosixPath

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from koala.errors import KoalaError

_BLOCK = 1 << 20
_ANSWER_S = 10.0  # how long a server may be silent


def download(address: str, part: Path, console: Console) -> None:
    """Stream what `address` serves into `part`; a `KoalaError` if it cannot be had whole."""
    columns = (TextColumn("  {task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    try:
        with (
            urllib.request.urlopen(address, timeout=_ANSWER_S) as response,
            part.open("wb") as out,
            Progress(*columns, console=console, disable=not console.is_terminal) as progress,
        ):
            length = response.length
            task = progress.add_task(PurePosixPath(address).name, total=length)
            while block := response.read(_BLOCK):
                out.write(block)
                progress.advance(task, len(block))
    except (OSError, http.client.HTTPException) as error:
        raise KoalaError(f"{address}: {_line(error)}") from error
    if length is not None and part.stat().st_size != length:
        raise KoalaError(f"{address}: ended after {part.stat().st_size:,} of {length:,} bytes")


def _line(error: BaseException) -> str:
    reason = getattr(error, "reason", None) or error
    return (str(reason).strip() or type(error).__name__).partition("\n")[0]
