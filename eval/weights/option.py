"""`--weights NAME=PATH` of the command lines, once for each file."""

from pathlib import Path
from typing import Annotated

import tyro

from koala.errors import KoalaError


def _parse(words: list[str]) -> tuple[str, Path]:
    name, equals, path = words[0].partition("=")
    if not (name and equals and path):
        raise KoalaError(f"--weights {words[0]}: write NAME=PATH, as inception-v3-fid=weights/inception.pth")
    return name, Path(path)


_PAIR = tyro.constructors.PrimitiveConstructorSpec(
    nargs=1,
    metavar="NAME=PATH",
    instance_from_str=_parse,
    is_instance=lambda value: isinstance(value, tuple),
    str_from_instance=lambda value: [f"{value[0]}={value[1]}"],
)
Paths = Annotated[tuple[Annotated[tuple[str, Path], _PAIR], ...], tyro.conf.UseAppendAction]


def by_name(paths: tuple[tuple[str, Path], ...]) -> dict[str, Path]:
    """The paths by the names of their files; a `KoalaError` if a name stands twice."""
    names = [name for name, _ in paths]
    if twice := {name for name in names if names.count(name) > 1}:
        raise KoalaError(f"--weights names {', '.join(sorted(twice))} more than once")
    return dict(paths)
