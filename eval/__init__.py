"""How good images are: metrics over images and sets of images, into pandas reports."""
