"""Prompt suites, one TOML file each: title, licence, source, and the prompts or the official files that hold them."""

from eval.prompts.load import limited, load, names

__all__ = ["limited", "load", "names"]
