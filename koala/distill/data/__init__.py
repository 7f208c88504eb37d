"""Captioned images on their way into training: sources, captions, the encoded cache and its batches."""
