"""World: which process this is among how many, and on which device; start and stop of the process group."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from mixdist.errors import MixdistError, UserError


@dataclass(frozen=True)
class World:
    """One process's place in the run. Collectives are no-ops in a world of one."""

    rank: int
    local_rank: int
    size: int
    local_size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and speaks to the user."""
        return self.rank == 0

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """Sum a tensor over all ranks, in place; returns it."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def stack(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return every rank's value of a contiguous tensor, by rank: [size, ...], the same on every rank."""
        if self.size == 1:
            return tensor[None]
        values = [torch.empty_like(tensor) for _ in range(self.size)]
        dist.all_gather(values, tensor)
        return torch.stack(values)

    def from_main(self, value: Any) -> Any:
        """Return rank 0's value of a small picklable object on every rank."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, device=self.device)
        return box[0]

    def gather(self, value: Any) -> list[Any]:
        """Return every rank's value of a small picklable object, by rank, on every rank."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    @contextmanager
    def together(self) -> Iterator[None]:
        """Run a block that may fail on some ranks only; where any rank raised a MixdistError, all ranks raise one.

        Without this, a fault seen by one rank (a file that is missing on its node) leaves the others waiting
        inside a collective. The error raised has ``collective`` set, so that it is printed once.
        """
        fault: MixdistError | None = None
        try:
            yield
        except MixdistError as error:
            fault = error
        found = [(rank, error) for rank, error in enumerate(self.gather(fault)) if error is not None]
        if not found:
            return
        rank, first = found[0]
        where = f" (on rank {rank} of {self.size})" if len(found) < self.size else ""
        raise first.everywhere(where) from fault


def read_world() -> World:
    """Read this process's place from torchrun's environment; without it, a world of one.

    Raises:
        UserError: a torchrun variable that is no number, or more local ranks than GPUs.
    """
    try:
        rank, local, size, local_size = (
            int(os.environ.get(name, default))
            for name, default in (("RANK", 0), ("LOCAL_RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_WORLD_SIZE", 1))
        )
    except ValueError as error:
        raise UserError(f"environment: RANK, LOCAL_RANK and WORLD_SIZE should be numbers ({error})") from None
    if not torch.cuda.is_available():
        return World(rank, local, size, local_size, torch.device("cpu"))
    if local >= torch.cuda.device_count():
        raise UserError(
            f"local rank {local} has no GPU: this machine has {torch.cuda.device_count()}; "
            f"start torchrun with --nproc_per_node={torch.cuda.device_count()} at most"
        )
    return World(rank, local, size, local_size, torch.device("cuda", local))


FALLEN = "mixdist/fallen"  # key of the store: the rank that failed alone


@contextmanager
def process_group(world: World) -> Iterator[None]:
    """Join the process group (NCCL on GPUs, gloo elsewhere) for the length of the block.

    After an error the group is left as it is: its destruction would wait for ranks that wait for this one.

    Raises:
        MixdistError: a collective broke off because another rank had failed, which has said why.
    """
    if world.device.type == "cuda":
        torch.cuda.set_device(world.device)
    if world.size == 1:
        yield
        return
    nccl = world.device.type == "cuda"
    store, _, _ = next(rendezvous("env://", world.rank, world.size))
    dist.init_process_group(
        "nccl" if nccl else "gloo",
        store=store,
        rank=world.rank,
        world_size=world.size,
        device_id=world.device if nccl else None,
    )
    try:
        yield
    except MixdistError as error:
        if not error.collective:
            store.set(FALLEN, str(world.rank))
        raise
    except RuntimeError as error:  # gloo's "Connection closed by peer" among others
        if not store.check([FALLEN]):
            raise
        dist.destroy_process_group()
        raise MixdistError(f"stopped, because rank {store.get(FALLEN).decode()} did").everywhere() from error
    dist.destroy_process_group()


def leave_together() -> None:
    """Leave the process group when all ranks are here, after an error that all of them raised.

    torchrun ends every rank as soon as one has left; without this, that may be before rank 0 has said what is wrong.
    """
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()
