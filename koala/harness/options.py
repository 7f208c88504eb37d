"""Option types of the command lines: `--models sdxl,koala-1b` is one word with commas."""

import re
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


_UNITS = {"B": 1} | {
    f"{letter}{ending}": base**power
    for power, letter in enumerate("KMGT", start=1)
    for ending, base in (("iB", 1024), ("B", 1000))
}


def byte_count(text: str) -> int:
    """Bytes of "8GiB", "11 GB" or "500MiB". A `ValueError` says what is wrong, as of a number without its unit."""
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)", text)
    unit = next((u for u in _UNITS if found and u.lower() == found[2].lower()), None)
    if found is None or unit is None:
        raise ValueError(f"{text!r} is no number of bytes such as 8GiB, 11GB or 500MiB")
    return round(float(found[1]) * _UNITS[unit])


def _card(text: str) -> int | None:
    return None if text.lower() == "none" else byte_count(text)


def number_range(text: str) -> range:
    """The numbers of "7", or those of "0-9", both ends included."""
    found = re.fullmatch(r"([0-9]+)(?:-([0-9]+))?", text)
    numbers = range(int(found[1]), int(found[2] or found[1]) + 1) if found else range(0)
    if not numbers:
        raise ValueError(f"{text!r} is neither a number nor a range such as 0-9")
    return numbers


Names = Annotated[tuple[str, ...], comma_separated(str, "A,B,...")]
Floats = Annotated[tuple[float, ...], comma_separated(float, "X,Y,...")]
Ints = Annotated[tuple[int, ...], comma_separated(int, "N,M,...")]
Ranges = Annotated[tuple[range, ...], comma_separated(number_range, "N,M-K,...")]
Cards = Annotated[tuple[int | None, ...], comma_separated(_card, "8GiB,11GiB,...")]
