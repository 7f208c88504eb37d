"""`python -m eval`."""

import sys

from koala.harness.cli import Command, main

COMMANDS = {
    "suites": Command("eval.commands.suites", "list the prompt suites and which are here, and fetch their files"),
    "generate": Command("eval.commands.generate", "draw the images of a prompt suite, or take images made elsewhere"),
    "run": Command("eval.commands.run", "a paper's whole protocol: generate, score, published beside measured"),
    "score": Command("eval.commands.score", "score images: galleries or folders, against a reference if one is given"),
    "report": Command("eval.commands.report", "tables, figures and contact sheets of all scores"),
    "compare": Command("eval.commands.compare", "two sets on the same prompts and seeds, with intervals"),
    "publish": Command("eval.commands.publish", "copy whole scores and their tables to results/"),
    "metrics": Command("eval.commands.metrics", "list the metrics and which way each is better"),
    "toyclip": Command("eval.commands.toyclip", "train a text-image score on captioned images of one domain"),
    "weights": Command("eval.commands.weights", "list the weight files metrics want, and fetch what may be fetched"),
}
EXAMPLES = (
    "python -m eval generate --models koala-700m,sdxl --suite koala-core",
    "python -m eval score runs/images/koala-700m --reference photos/",
    "python -m eval report",
    "python -m eval weights --fetch",
)

if __name__ == "__main__":
    sys.exit(main("eval", "How good images are: metrics of images and of sets of images.", COMMANDS, EXAMPLES))
