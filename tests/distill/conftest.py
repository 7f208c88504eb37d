import gc
import os
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session", autouse=True)
def _imports_are_no_garbage() -> Iterator[None]:
    """Every training collects garbage before it measures memory, and need not look through what was imported."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True)
def _no_wait_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kill, unlike a loss of power, spares what was written and not synced."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)
