"""Command lines that start fast: a package's commands are a table, and only the chosen one's parser is built."""

import inspect
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import Any

from koala.errors import KoalaError, UnknownName

INTERRUPTED = 130
# Warnings about torchao, where it is installed, by torch and diffusers that import it: they are nobody's here to mend.
_WARN_ON_IMPORT = ("torch.utils._pytree", "diffusers.quantizers.torchao")


@dataclass(frozen=True)
class Command:
    """A command: `module`, imported when chosen, holds `Options`, `EXAMPLES` and `run(options) -> exit code`.

    Where the defaults depend on the first word, it holds `parse(prog, argv) -> Options` too.
    """

    module: str
    summary: str


def main(
    package: str,
    description: str,
    commands: Mapping[str, Command],
    examples: Sequence[str],
    argv: Sequence[str] | None = None,
) -> int:
    """Run the command that `argv` names and return its exit code: 2 for a user's mistake, without a traceback."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        code = _run(package, description, commands, examples, arguments)
        sys.stdout.flush()
        return code
    except KoalaError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # the reader of stdout went away, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _run(
    package: str,
    description: str,
    commands: Mapping[str, Command],
    examples: Sequence[str],
    arguments: list[str],
) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_help(package, description, commands, examples))
        return 0
    name, *rest = arguments
    if name not in commands:
        raise UnknownName("command", name, commands)
    for logger in _WARN_ON_IMPORT:
        logging.getLogger(logger).setLevel(logging.ERROR)
    module = import_module(commands[name].module)
    parse = getattr(module, "parse", partial(parsed, module.Options, module.EXAMPLES))
    return module.run(parse(f"python -m {package} {name}", rest))


def stderr_console() -> Any:
    """A rich console on stderr for progress and remarks: stdout stays parseable, long lines are not broken."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, soft_wrap=True)


def parsed(
    options: Any, examples: Sequence[str], prog: str, argv: Sequence[str], default: Any = None, more: str = ""
) -> Any:
    """The `options` that `argv` gives; `default` has other defaults, and the help says `more`."""
    import tyro  # 0.1 s, which a bare --help need not pay

    listed = "examples:\n" + "\n".join(f"  {example}" for example in examples)
    text = "\n\n".join(filter(None, (inspect.cleandoc(options.__doc__), more, listed)))
    given = {} if default is None else {"default": default}
    return tyro.cli(options, prog=prog, description=text, args=argv, **given)


def _help(package: str, description: str, commands: Mapping[str, Command], examples: Sequence[str]) -> str:
    width = max(map(len, commands))
    return "\n".join(
        [
            f"usage: python -m {package} COMMAND [options]",
            "",
            description,
            "",
            "commands:",
            *(f"  {name:<{width}}  {command.summary}" for name, command in commands.items()),
            "",
            "examples:",
            *(f"  {example}" for example in examples),
            "",
            f"`python -m {package} COMMAND --help` lists the options of a command.",
        ]
    )
