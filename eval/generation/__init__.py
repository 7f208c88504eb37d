"""The images of a suite: which there are to draw, by whom, and how they get into galleries."""
