"""Rows of an evaluation, read for `eval` and `bench` alike: which scores count, their means and their names."""
