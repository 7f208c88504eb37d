"""A local page that draws with two models side by side."""
