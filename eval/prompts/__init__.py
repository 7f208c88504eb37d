"""Prompt suites: what a TOML file of `eval/suites/` says (`entry`), the official files' formats, where they lie."""
