"""`python -m eval`."""

import sys

from koala.harness.cli import Command, main

COMMANDS = {"metrics": Command("eval.commands.metrics", "list the metrics and which way each is better")}
EXAMPLES = ("python -m eval metrics", "python -m eval metrics --json")

if __name__ == "__main__":
    sys.exit(
        main("eval", "How good images are. FID, CLIP score and prompt suites are still to come.", COMMANDS, EXAMPLES)
    )
