"""Latents that every image of a benchmark begins with, as MLPerf prescribes them, in the place of noise by seed."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from pickle import UnpicklingError

import torch

from koala.errors import KoalaError
from koala.harness.files import sha256_of
from koala.types import Latents


@dataclass(frozen=True)
class StartLatents:
    """A file that holds one tensor of standard normal values, [1, channels, h, w]."""

    path: Path

    @cached_property
    def sha256(self) -> str:
        """The digest of the file."""
        return sha256_of(self.path)

    @cached_property
    def latents(self) -> Latents:
        """The tensor in fp32; nothing else in the file is read."""
        try:
            found = torch.load(self.path, map_location="cpu", weights_only=True)
        except (OSError, RuntimeError, ValueError, EOFError, KeyError, UnpicklingError) as error:
            raise KoalaError(f"{self.path} holds no tensor: {str(error).partition(chr(10))[0]}") from error
        if not isinstance(found, torch.Tensor) or found.dim() != 4:
            raise KoalaError(f"{self.path} holds no tensor [1, channels, h, w]")
        return found.float()
