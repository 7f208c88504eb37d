"""A suite -> the pictures to draw of it."""

from collections import Counter

from eval.suite import Suite
from koala.errors import KoalaError
from koala.sampling.job import Picture

_SEEDS = 2**63


def pictures(suite: Suite, images_per_prompt: int, seed: int) -> list[Picture]:
    """The first image of every prompt, then the second of each and so on, each with a seed of its own.

    Image j of a prompt has `seed` + j. A prompt that a suite holds again (captions repeat) goes on from there, so that
    no picture is drawn twice.
    """
    for name, value, least in (("images-per-prompt", images_per_prompt, 1), ("seed", seed, 0)):
        if value < least:
            raise KoalaError(f"--{name} must be at least {least}, not {value}")
    seen: Counter[str] = Counter()
    firsts = []
    for prompt in suite.prompts:
        firsts.append(seed + seen[prompt.text] * images_per_prompt)
        seen[prompt.text] += 1
    if firsts and max(firsts) + images_per_prompt > _SEEDS:
        raise KoalaError(f"seeds end below 2^63, and --seed {seed} goes beyond")
    about = {"suite": suite.name, "suite_digest": suite.digest}
    facts = [{**about, **prompt.facts()} for prompt in suite.prompts]
    return [
        Picture(prompt.text, first + j, fact)
        for j in range(images_per_prompt)
        for prompt, first, fact in zip(suite.prompts, firsts, facts, strict=True)
    ]
