"""The commands behind `python -m koala`, one file each."""
