"""`python -m koala`."""

import sys

from koala.harness.cli import Command, main

COMMANDS = {"models": Command("koala.commands.models", "list the zoo: sizes, topology, recipe, source")}
EXAMPLES = ("python -m koala models", "python -m koala models --json")

if __name__ == "__main__":
    sys.exit(main("koala", "Compressed text-to-image diffusion models.", COMMANDS, EXAMPLES))
