import weakref
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file

from koala.errors import KoalaError
from koala.models.safetensors_stream import Entry, write

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2]


def entries_of(tensors):
    return {key: Entry(tensor.dtype, tuple(tensor.shape)) for key, tensor in tensors.items()}


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.sampled_from(DTYPES), st.lists(st.integers(0, 5), max_size=4)), max_size=6))
def test_safetensors_reads_back_what_was_written(tmp_path_factory, described):
    tensors = {f"layer.{i}.weight": torch.randn(shape).to(dtype) for i, (dtype, shape) in enumerate(described)}
    path = tmp_path_factory.mktemp("file") / "a.safetensors"
    size = write(path, entries_of(tensors), tensors.__getitem__, {"format": "pt", "teacher": "ein Größerer"})
    assert size == path.stat().st_size
    found = load_file(path)
    assert found.keys() == tensors.keys()
    for key, tensor in tensors.items():
        assert found[key].dtype == tensor.dtype
        assert found[key].shape == tensor.shape
        assert found[key].double().equal(tensor.double())
    with safe_open(path, "pt") as file:
        assert file.metadata() == {"format": "pt", "teacher": "ein Größerer"}


def test_a_view_is_written_as_it_reads(tmp_path):
    whole = torch.arange(24.0).reshape(4, 6)
    views = {"turned": whole.T, "part": whole[1:3, 2:], "trained": whole[0].clone().requires_grad_()}
    write(tmp_path / "a.safetensors", entries_of(views), views.__getitem__, {})
    found = load_file(tmp_path / "a.safetensors")
    assert all(found[key].equal(view) for key, view in views.items())


def test_no_more_than_one_tensor_is_held(tmp_path):
    alive = []

    def take(key):
        assert not [tensor for tensor in alive if tensor() is not None]
        tensor = torch.full((8,), float(key))
        alive.append(weakref.ref(tensor))
        return tensor

    write(tmp_path / "a.safetensors", dict.fromkeys(map(str, range(9)), Entry(torch.float32, (8,))), take, {})
    assert len(alive) == 9


def test_every_tensor_is_told_when_it_is_written(tmp_path):
    tensors = {"a": torch.ones(3), "b": torch.ones(2, 2)}
    told = []
    write(tmp_path / "a.safetensors", entries_of(tensors), tensors.__getitem__, {}, told.append)
    assert told == ["a", "b"]


def test_an_existing_file_is_never_replaced(tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_text("mine")
    with pytest.raises(FileExistsError):
        write(path, {}, partial(torch.ones, 1), {})
    assert path.read_text() == "mine"


def test_a_dtype_that_safetensors_files_do_not_know_here_is_told_by_the_name_of_the_tensor(tmp_path):
    with pytest.raises(KoalaError, match=r"conv\.weight is torch\.complex64"):
        write(tmp_path / "a.safetensors", {"conv.weight": Entry(torch.complex64, (1,))}, torch.ones, {})
    assert not list(tmp_path.iterdir())
