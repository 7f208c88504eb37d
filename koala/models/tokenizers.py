"""Texts -> numbers, without a hub: open-clip-torch ships CLIP's vocabulary (Radford et al., 2021)."""

import gzip
import re
import zlib
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from transformers import CLIPTokenizer

from koala.errors import KoalaError

_VOCABULARY = "bpe_simple_vocab_16e6.txt.gz"
_BEGIN, _END, _FIRST_WORD = 101, 102, 1000  # in BERT's vocabulary of English in lower case
_WORDS = re.compile(r"\w+|[^\w\s]")
_MERGES = 48_894  # 49,408 tokens less 2 x 256 byte symbols and the two markers


def clip_tokenizer(pad_token: str, max_tokens: int = 77) -> CLIPTokenizer:
    """A tokenizer with CLIP's 49,408 ids; SDXL's two differ only in `pad_token` ("<|endoftext|>" and "!").

    Curly quotes are not straightened (open_clip does that with ftfy), which is what SDXL's own files do too.
    """
    vocabulary, merges = _byte_pairs()
    return CLIPTokenizer(vocab=dict(vocabulary), merges=list(merges), pad_token=pad_token, model_max_length=max_tokens)


def sentence_tokenizer(file: Path | None, vocabulary: int) -> Callable[[str], tuple[int, ...]]:
    """BERT's tokens of a text between its two markers, by the `tokenizer.json` of a sentence encoder.

    None: as many numbers as the text has words and signs, any but the same for the same word.
    """
    if file is None:
        return lambda text: (_BEGIN, *(_numbered(word, vocabulary) for word in _WORDS.findall(text.lower())), _END)
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(file))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return lambda text: tuple(tokenizer.encode(text).ids)


def _numbered(word: str, vocabulary: int) -> int:
    return _FIRST_WORD + zlib.crc32(word.encode()) % (vocabulary - _FIRST_WORD)


@cache
def _byte_pairs() -> tuple[dict[str, int], tuple[tuple[str, ...], ...]]:
    with gzip.open(_vocabulary_file(), "rt", encoding="utf-8") as file:
        merges = tuple(tuple(line.split()) for line in file.read().split("\n")[1 : _MERGES + 1])
    symbols = _byte_symbols()
    tokens = symbols + [s + "</w>" for s in symbols] + ["".join(pair) for pair in merges]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    return {token: i for i, token in enumerate(tokens)}, merges


def _byte_symbols() -> list[str]:
    """One printable character for each of the 256 bytes, printable bytes first (GPT-2's byte-level alphabet)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = 256 - len(printable)
    return [chr(byte) for byte in printable] + [chr(256 + i) for i in range(others)]


def _vocabulary_file() -> Path:
    package = find_spec("open_clip")  # found, not imported: importing it takes seconds
    for folder in (package.submodule_search_locations or []) if package else []:
        if (file := Path(folder) / _VOCABULARY).is_file():
            return file
    raise KoalaError(f"the CLIP vocabulary {_VOCABULARY} is missing; install it: pip install open-clip-torch")
