"""The folder of things that can be had again."""

from koala.harness.cache import CACHE, aside, cache_folder, made

__all__ = ["CACHE", "aside", "cache_folder", "made"]
