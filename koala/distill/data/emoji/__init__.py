"""Emoji as training images: real artwork under free licences, from package registries, with captions by code point."""
