"""sha256 of files, remembered."""

from koala.harness.hashes import sha256

__all__ = ["sha256"]
