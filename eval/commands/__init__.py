"""The commands behind `python -m eval`, one file each."""
