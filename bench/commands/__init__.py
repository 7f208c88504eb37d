"""The commands behind `python -m bench`, one file each."""
