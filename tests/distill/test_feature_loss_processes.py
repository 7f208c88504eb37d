"""The feature term on networks that several processes share."""

import pytest
import torch
from tapped_networks import SMALL, assert_alike, gradients, inputs_of, small_pairs, terms, unet_of
from torch import multiprocessing as processes
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.nn.parallel import DistributedDataParallel

from koala.distill.feature_loss import FeatureLoss


def sharded(unet):
    for stage in (*unet.down_blocks, *unet.up_blocks):
        fully_shard(stage)
    return fully_shard(unet)


def flattened(unet):
    return FullyShardedDataParallel(unet, use_orig_params=True, device_id=torch.device("cpu"))


WRAPPERS = {"ddp": DistributedDataParallel, "fsdp2": sharded, "fsdp1": flattened}


def rank_steps(rank, file, wrapping, checkpointing):
    """One process of two: its half of the batch through wrapped networks; writes what it finds."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{file}.init", rank=rank, world_size=2)
    student, teacher = unet_of(SMALL), unet_of(SMALL, seed=7, trained=False)
    loss = FeatureLoss(small_pairs(), student, teacher)
    if checkpointing:
        student.enable_gradient_checkpointing()
    wrapped = WRAPPERS[wrapping](student)
    whole = inputs_of(SMALL, batch=2)
    half = {
        key: value[rank : rank + 1] if torch.is_tensor(value) and value.ndim else value for key, value in whole.items()
    }
    half["added_cond_kwargs"] = {key: value[rank : rank + 1] for key, value in whole["added_cond_kwargs"].items()}
    losses = []
    for _ in range(2):
        wrapped.zero_grad()
        found, prediction = terms(loss, wrapped, teacher, half)
        (prediction.square().mean() + found["feature"]).backward()
        losses.append(found["feature"].detach())
    if wrapping == "fsdp1":
        total = sum((p.grad.square().sum() for p in student.parameters() if p.grad is not None), torch.zeros(()))
        torch.distributed.all_reduce(total)
        grads = {"norm": total.sqrt()}
    else:
        whole_of = lambda g: g.full_tensor() if hasattr(g, "full_tensor") else g  # noqa: E731
        grads = {name: whole_of(p.grad).clone() for name, p in student.named_parameters() if p.grad is not None}
    torch.save({"losses": losses, "grads": grads, "world": torch.distributed.get_world_size()}, f"{file}.{rank}")
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize(
    ("wrapping", "checkpointing"), [("ddp", False), ("ddp", True), ("fsdp2", False), ("fsdp2", True), ("fsdp1", False)]
)
def test_two_processes_have_the_gradients_of_one_with_the_whole_batch(tmp_path, wrapping, checkpointing):
    file = str(tmp_path / "found")
    processes.start_processes(rank_steps, (file, wrapping, checkpointing), nprocs=2, start_method="fork")
    ranks = [torch.load(f"{file}.{rank}") for rank in range(2)]
    student, teacher = unet_of(SMALL), unet_of(SMALL, seed=7, trained=False)
    found, prediction = terms(FeatureLoss(small_pairs(), student, teacher), student, teacher, inputs_of(SMALL, batch=2))
    (prediction.square().mean() + found["feature"]).backward()
    expected = gradients(student)
    for rank in ranks:
        assert rank["world"] == 2
        if wrapping == "fsdp1":
            norm = torch.stack([gradient.norm() for gradient in expected.values()]).norm()
            torch.testing.assert_close(rank["grads"]["norm"], norm, rtol=1e-5, atol=0)
        else:
            assert_alike(rank["grads"], expected, whole=1e-5)
    mean = torch.stack([torch.stack(rank["losses"]) for rank in ranks]).mean(0)
    torch.testing.assert_close(mean, found["feature"].detach().expand(2), rtol=1e-5, atol=0)
