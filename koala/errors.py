"""The errors that reach users: one line that says what is wrong and what would be right."""

import difflib
from collections.abc import Iterable


class KoalaError(Exception):
    """A user's mistake or a missing thing; command lines print it without a traceback and exit with 2."""


class UnknownName(KoalaError):
    """A name that no registry knows; the message lists the names that one does."""

    def __init__(self, kind: str, name: str, known: Iterable[str]):
        known = sorted(known)
        close = difflib.get_close_matches(name, known, n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        super().__init__(f"unknown {kind} {name!r}{hint}; known: {', '.join(known)}")


def first_few(items: Iterable[str], most: int = 5) -> str:
    """The first of `items` for a message that would be too long with all of them: "a, b, ..."."""
    listed = list(items)
    return ", ".join(listed[:most]) + (", ..." if len(listed) > most else "")
