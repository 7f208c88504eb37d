"""What a measuring process makes of the errors that memory causes."""

from unittest.mock import create_autospec

import pytest
import torch

from bench import worker
from bench.blackbox.call import PipelineCall

NO_ENGINE = RuntimeError("GET was unable to find an engine to execute this computation")


@pytest.mark.parametrize(("refused", "verdict"), [(0, False), (2, True)])
def test_a_convolution_without_an_engine_is_out_of_memory_where_the_allocator_refused_some(
    monkeypatch, refused, verdict
):
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "memory_stats", lambda: {"num_ooms": refused})
    assert worker.is_out_of_memory(NO_ENGINE) is verdict


def test_a_convolution_without_an_engine_is_no_matter_of_memory_where_no_gpu_is_used():
    assert not worker.is_out_of_memory(NO_ENGINE)


def test_what_runs_out_of_memory_only_while_operations_are_counted_keeps_its_row_without_them():
    call = create_autospec(PipelineCall, instance=True)
    call.count_flops.side_effect = torch.OutOfMemoryError("CUDA out of memory")
    assert worker._flops(call) is None
    call.count_flops.side_effect = RuntimeError("another mistake")
    with pytest.raises(RuntimeError, match="another mistake"):
        worker._flops(call)
