"""`python -m bench`."""

import sys

from koala.harness.cli import Command, main

COMMANDS = {
    "sweep": Command("bench.commands.sweep", "measure models and print one table (starting again goes on)"),
    "table": Command("bench.commands.table", "print measured rows as a table"),
    "compare": Command("bench.commands.compare", "two measurements side by side: faster, slower or no difference"),
    "breakdown": Command(
        "bench.commands.breakdown", "where the time of a denoising step goes, by stage and layer kind"
    ),
    "roofline": Command("bench.commands.roofline", "measured cases against what the device could do at most"),
    "pareto": Command("bench.commands.pareto", "quality beside latency and memory: which models no other one beats"),
    "check": Command("bench.commands.check", "examine this machine before a sweep, and say what to change"),
    "report": Command("bench.commands.report", "tables, figures and one page of all published rows"),
    "publish": Command("bench.commands.publish", "copy finished rows and tables to results/"),
}
EXAMPLES = (
    "python -m bench sweep                          # what suits this machine, in minutes",
    "python -m bench sweep paper --models koala-700m --profiles eager,compiled,diffusers-eager",
    "python -m bench sweep cpu --dry-run",
    "python -m bench table results/*/rows.jsonl --format csv",
    "python -m bench compare before.jsonl after.jsonl --fail-over 5%",
    "python -m bench breakdown koala-700m",
)

if __name__ == "__main__":
    sys.exit(main("bench", "Latency and peak memory, out of memory as an answer.", COMMANDS, EXAMPLES))
