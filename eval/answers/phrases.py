"""The questions that T2I-CompBench asks of a prompt's image: "a green bench?" for each of its noun phrases.

Noun phrases are those of spaCy's `en_core_web_sm`; the authors had 3.5.0, and another version may cut a prompt
otherwise.
"""

import re
from collections.abc import Sequence
from functools import cache, lru_cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from koala.errors import KoalaError

PIPELINE = "en_core_web_sm"
MOST = 8  # phrases of a prompt that are asked about
_WORDS = 50
_DROPPED = re.compile(r'[.!"()*#:;~]')


def noun_phrases(prompts: Sequence[str]) -> list[list[str]]:
    """The noun phrases of each prompt, in order."""
    return [[str(chunk) for chunk in parsed(prompt).noun_chunks] for prompt in prompts]


def questions(phrases: Sequence[str]) -> list[str]:
    """What is asked for the first eight phrases, in the letters that BLIP was trained on."""
    asked = [_DROPPED.sub("", f"{phrase}?".lower()).rstrip(" ") for phrase in phrases[:MOST]]
    return [" ".join(question.split(" ")[:_WORDS]) for question in asked]


def pipeline_version() -> str | None:
    """The version of the pipeline that is installed."""
    try:
        return version(PIPELINE)
    except PackageNotFoundError:
        return None


@lru_cache(maxsize=1024)
def parsed(prompt: str) -> Any:
    """The prompt as spaCy reads it, once for all that ask and whatever is read beside it."""
    return pipeline()(prompt)


@cache
def pipeline() -> Any:
    """spaCy's pipeline; a `KoalaError` where it cannot be read."""
    import spacy

    try:
        return spacy.load(PIPELINE, exclude=["ner", "lemmatizer"])
    except (OSError, ValueError) as error:
        raise KoalaError(f"spaCy cannot read {PIPELINE}: {str(error).partition(chr(10))[0]}") from error
