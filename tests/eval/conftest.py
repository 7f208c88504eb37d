"""What tests of whole scoring runs share."""

import pytest
from score_runs import score_options


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache of this test's own."""
    monkeypatch.setenv("KOALA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def options(tmp_path, cache):
    """A small run of `python -m eval score`."""
    return score_options(tmp_path)
