"""Where the files of a hub's repository may lie: a folder laid out like it, the hub's own cache, the hub itself."""

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol, TypeVar, runtime_checkable

from koala.errors import KoalaError
from koala.models.spec import HubFile

MIRROR = "KOALA_WEIGHTS"
_MAIN = "main"
_ANSWER_S = 5.0  # how long the hub may take to answer at all
_GRACE_S = 3.0  # a resolver that hangs knows no time limit of its own

T = TypeVar("T")


class Unavailable(KoalaError):
    """A repository cannot be read from the hub; the message says why."""


class Unreachable(Unavailable):
    """The hub itself cannot be asked, so neither for another repository."""


@runtime_checkable
class Place(Protocol):
    """A repository's files."""

    def names(self, folder: str) -> list[str]:
        """The files right in `folder`, "" being the repository itself."""
        ...

    def fetch(self, path: str) -> Path:
        """The file at `path` in the repository, on this machine."""
        ...


@dataclass(frozen=True)
class Folder:
    """A folder laid out as a repository."""

    root: Path

    def names(self, folder: str) -> list[str]:
        """The files right in `folder`; a link to nothing is none."""
        place = self.root / folder
        return sorted(entry.name for entry in place.iterdir() if entry.is_file()) if place.is_dir() else []

    def fetch(self, path: str) -> Path:
        """The file at `path`."""
        return self.root / path


@dataclass(frozen=True)
class Hub:
    """A repository on the hub, of whose files those that are fetched are downloaded into the hub's cache."""

    repository: str
    revision: str | None
    files: tuple[str, ...]

    def names(self, folder: str) -> list[str]:
        """The files right in `folder`."""
        paths = map(PurePosixPath, self.files)
        return [path.name for path in paths if path.parent == PurePosixPath(folder)]

    def fetch(self, path: str) -> Path:
        """The file at `path`, downloaded unless the cache has it."""
        from huggingface_hub import hf_hub_download

        def download() -> str:
            return hf_hub_download(
                self.repository,
                path,
                revision=self.revision,
                cache_dir=cache_folder(),
                endpoint=os.environ.get("HF_ENDPOINT"),
            )

        return Path(_asked(download))


def mirror(file: HubFile) -> Folder | None:
    """The repository's folder under the one that KOALA_WEIGHTS names, if it is there."""
    if not (named := os.environ.get(MIRROR)):
        return None
    if not Path(named).expanduser().is_dir():
        raise KoalaError(f"{MIRROR} is {named!r}, which is not a folder")
    root = Path(named).expanduser() / file.repository
    return Folder(root) if root.is_dir() else None


def cache_folder() -> Path:
    """The hub's cache, as HF_HUB_CACHE or HF_HOME says now."""
    if cache := os.environ.get("HF_HUB_CACHE"):
        return Path(cache).expanduser()
    base = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")) / "huggingface"
    return Path(os.environ.get("HF_HOME", base)).expanduser() / "hub"


def cached(file: HubFile) -> Folder | None:
    """The snapshot in the hub's cache of the revision that `file` pins, or of the main branch."""
    root = repository_cache(file)
    revision = file.revision or _MAIN
    if (root / "snapshots" / revision).is_dir():
        return Folder(root / "snapshots" / revision)
    reference = root / "refs" / revision
    if reference.is_file() and (found := root / "snapshots" / reference.read_text().strip()).is_dir():
        return Folder(found)
    return None


def repository_cache(file: HubFile) -> Path:
    """The repository's folder in the hub's cache, whether or not it is there."""
    return cache_folder() / f"models--{file.repository.replace('/', '--')}"


def other_snapshots(file: HubFile) -> list[Path]:
    """Snapshots in the hub's cache of other revisions than `file` asks for."""
    snapshots, used = repository_cache(file) / "snapshots", cached(file)
    found = sorted(snapshots.iterdir()) if snapshots.is_dir() else []
    return [folder for folder in found if used is None or folder != used.root]


def online(file: HubFile) -> Hub:
    """The repository on the hub; `Unavailable` if it cannot be listed within seconds."""
    from huggingface_hub import HfApi

    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        raise Unreachable("HF_HUB_OFFLINE is set")
    timeout = float(os.environ.get("HF_HUB_ETAG_TIMEOUT", _ANSWER_S))

    def names() -> tuple[str, ...]:
        api = HfApi(endpoint=os.environ.get("HF_ENDPOINT"))
        info = api.model_info(file.repository, revision=file.revision, timeout=timeout)
        return tuple(sibling.rfilename for sibling in info.siblings or ())

    return Hub(file.repository, file.revision, _within(timeout + _GRACE_S, names))


def _within(seconds: float, ask: Callable[[], T]) -> T:
    """What `ask` returns; `Unreachable` if it takes longer, whatever it waits for."""
    answers: list[T] = []
    failures: list[Unavailable] = []

    def run() -> None:
        try:
            answers.append(_asked(ask))
        except Unavailable as error:
            failures.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if failures:
        raise failures[0]
    if not answers:
        raise Unreachable(f"no answer from the hub in {seconds:.0f} s")
    return answers[0]


def _asked(ask: Callable[[], T]) -> T:
    """What `ask` returns; its failures in one line."""
    from huggingface_hub import errors

    (http_error, *_) = errors.HfHubHTTPError.__bases__  # of the HTTP library, which depends on the hub's version
    try:
        return ask()
    except errors.GatedRepoError as error:
        raise Unavailable(
            "the repository is gated: accept its terms on its page, then log in (hf auth login)"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise Unavailable("the hub has no such repository, or shows it only to those logged in") from error
    except errors.RevisionNotFoundError as error:
        raise Unavailable("the repository has no such revision") from error
    except errors.HfHubHTTPError as error:
        raise Unavailable(f"the hub answered: {_line(error)}") from error
    except (http_error, OSError, ValueError) as error:
        raise Unreachable(f"the hub cannot be asked: {_line(error)}") from error


def _line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).partition("\n")[0]
