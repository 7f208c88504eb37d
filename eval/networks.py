"""Each network that metrics ask for, loaded once from its weight files and shared."""

from collections.abc import Sequence
from functools import partial

import torch

from eval import extractors
from eval.extractor import Extractor, TextExtractor
from eval.feed import VERSION, Feed
from eval.texts import TextFeatures
from eval.weights import Weights
from koala.types import Features

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Networks:
    """Loads extractors on `device`, finding their files through `weights`; from then on fp32 means fp32 everywhere."""

    def __init__(self, weights: Weights, device: torch.device):
        torch.backends.cudnn.allow_tf32 = False  # else a GPU computes convolutions with 10 bits and calls it fp32
        self.weights, self.device = weights, device
        self._loaded: dict[tuple[str, str], Extractor | TextExtractor] = {}
        self._texts: dict[tuple[str, str], TextFeatures] = {}

    def extractor(self, name: str, dtype: str = "fp32") -> Extractor | TextExtractor:
        """The extractor, its weights loaded."""
        if (name, dtype) not in self._loaded:
            extractor = extractors.load(name)
            files = {file: self.weights.find(file).path for file in extractor.weights}
            extractor.load(files, self.device, DTYPES[dtype])
            self._loaded[name, dtype] = extractor
        return self._loaded[name, dtype]

    def features(self, feed: Feed, prepared: torch.Tensor) -> Features:
        """The features of prepared images."""
        extractor = self.extractor(feed.extractor, feed.dtype)
        assert isinstance(extractor, Extractor)
        with torch.inference_mode():
            return extractor.features(prepared)

    def texts(self, name: str, texts: Sequence[str], dtype: str = "fp32") -> Features:
        """fp32 features of texts, on the CPU; only those never seen by these weights are computed."""
        if (name, dtype) not in self._texts:
            extractor = extractors.load(name)
            hashes = [self.weights.find(file).sha256 for file in extractor.weights]
            encode = partial(self._encode, name, dtype)
            self._texts[name, dtype] = TextFeatures((name, dtype, str(VERSION), *hashes), extractor.dim, encode)
        return self._texts[name, dtype](texts)

    def _encode(self, name: str, dtype: str, texts: Sequence[str]) -> Features:
        extractor = self.extractor(name, dtype)
        assert isinstance(extractor, TextExtractor)
        with torch.inference_mode():
            return extractor.texts(texts)
