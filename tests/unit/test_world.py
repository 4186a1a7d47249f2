"""A process's place in the run, read from torchrun's environment, and collectives in a world of one."""

import pytest
import torch

from mixdist.errors import DataError, MixdistError, UserError
from mixdist.world import World, is_own, process_group, read_world

NAMES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")
ALONE = World.alone(torch.device("cpu"))


@pytest.fixture
def environment(monkeypatch):
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    return lambda **values: [monkeypatch.setenv(name, value) for name, value in values.items()]


def test_without_torchrun_a_process_is_alone(environment):
    assert read_world() == ALONE
    assert read_world().is_main


def test_torchrun_s_environment_gives_the_place(environment):
    environment(RANK="5", LOCAL_RANK="1", WORLD_SIZE="8", LOCAL_WORLD_SIZE="4")
    world = read_world()
    assert (world.rank, world.local_rank, world.size, world.local_size) == (5, 1, 8, 4)
    assert not world.is_main


@pytest.mark.parametrize("name", NAMES)
def test_a_variable_that_is_no_number_is_named_with_its_value(environment, name):
    environment(**{name: "two"})
    with pytest.raises(UserError, match=r"environment: RANK, LOCAL_RANK and WORLD_SIZE should be numbers.*'two'"):
        read_world()


def test_each_local_rank_takes_its_own_gpu(environment, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    environment(RANK="3", LOCAL_RANK="1", WORLD_SIZE="4", LOCAL_WORLD_SIZE="2")
    assert read_world().device == torch.device("cuda", 1)


def test_more_local_ranks_than_gpus_are_refused_with_the_number_that_fits(environment, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    environment(RANK="2", LOCAL_RANK="2", WORLD_SIZE="3", LOCAL_WORLD_SIZE="3")
    with pytest.raises(UserError, match=r"local rank 2 has no GPU: this machine has 2.*--nproc_per_node=2"):
        read_world()


@pytest.mark.parametrize(("localid", "fits"), [("3", True), ("0", False)])  # "0": a torchrun that srun started
def test_a_rank_that_sees_its_own_gpu_alone_takes_it(environment, monkeypatch, localid, fits):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setenv("SLURM_GPUS_PER_TASK", "1")
    monkeypatch.setenv("SLURM_LOCALID", localid)
    environment(RANK="3", LOCAL_RANK="3", WORLD_SIZE="4", LOCAL_WORLD_SIZE="4")
    if fits:
        world = read_world()
        assert (world.local_rank, world.device) == (3, torch.device("cuda", 0))
    else:
        with pytest.raises(UserError, match="local rank 3 has no GPU: this machine has 1"):
            read_world()


def test_collectives_of_a_world_of_one_change_nothing():
    tensor = torch.tensor([1.0, 2.0])
    value = {"a": 1}
    with process_group(ALONE):
        assert ALONE.sum(tensor) is tensor
        assert ALONE.from_main(value) is value
    assert tensor.tolist() == [1, 2]
    assert not torch.distributed.is_initialized()


def test_together_raises_the_fault_of_a_world_of_one_as_the_same_kind_marked_collective():
    with pytest.raises(DataError, match=r"^the shard is gone$") as caught, ALONE.together():
        raise DataError("the shard is gone")
    assert caught.value.collective
    assert caught.value.exit_code == 2
    assert isinstance(caught.value.__cause__, DataError)


def test_together_passes_a_block_without_a_fault():
    with ALONE.together():
        done = True
    assert done


def test_together_lets_what_is_no_mixdist_error_through_as_it_is():
    fault = ZeroDivisionError("a defect")
    with pytest.raises(ZeroDivisionError) as caught, ALONE.together():
        raise fault
    assert caught.value is fault
    assert not isinstance(caught.value, MixdistError)


@pytest.mark.parametrize(
    ("error", "own"),
    [
        (RuntimeError("[gloo/transport/tcp/pair.cc] Connection closed by peer"), False),
        (torch.distributed.DistBackendError("NCCL error: ncclRemoteError: A call failed"), False),
        (torch.distributed.DistNetworkError("the store is gone"), False),
        (torch.distributed.DistBackendError("NCCL error: ncclInvalidUsage: invalid usage"), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (ValueError("gloo"), True),
    ],
)  # fmt: skip
def test_the_loss_of_another_rank_is_not_an_error_of_this_one(error, own):
    assert is_own(error) is own
