"""Option types of the command lines: `--models sdxl,koala-1b` is one word with commas."""

from collections.abc import Callable
from typing import Annotated, Any

import tyro

from koala.errors import KoalaError


def comma_separated(convert: Callable[[str], Any], metavar: str) -> Any:
    """A tyro specification that reads `A,B` as a tuple of converted items; an item it cannot read is an error."""

    def parse(words: list[str]) -> tuple:
        try:
            return tuple(convert(item.strip()) for item in words[0].split(",") if item.strip())
        except ValueError as error:
            raise KoalaError(f"cannot read {words[0]!r} as {metavar}: {error}") from error

    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar=metavar,
        instance_from_str=parse,
        is_instance=lambda value: isinstance(value, tuple),
        str_from_instance=lambda value: [",".join(map(str, value))],
    )


Names = Annotated[tuple[str, ...], comma_separated(str, "A,B,...")]
Ints = Annotated[tuple[int, ...], comma_separated(int, "N,M,...")]
