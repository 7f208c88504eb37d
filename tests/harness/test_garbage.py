"""Cycles are not looked for while rows are read, and are again afterwards, whatever happens."""

import gc

import pytest

from koala.harness.garbage import collection_paused


def test_collection_is_paused_inside_and_goes_on_after_an_error():
    assert gc.isenabled()
    with pytest.raises(ValueError, match="x"), collection_paused():
        assert not gc.isenabled()
        with collection_paused():
            assert not gc.isenabled()
        assert not gc.isenabled(), "the outermost counts"
        raise ValueError("x")
    assert gc.isenabled()


def test_what_was_off_before_stays_off():
    gc.disable()
    try:
        with collection_paused():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
