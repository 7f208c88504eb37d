"""Formulas over features: tensors in, numbers out; no files, no networks."""
