"""The weight files by what they are for; a file here holds `FILES`, and `eval/weights/table.py` reads all of them."""
