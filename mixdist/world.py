"""World: which process this is among how many, and on which device; start and stop of the process group."""

from __future__ import annotations

import atexit
import json
import os
import socket
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import HashStore, Store
from torch.distributed import DistNetworkError

from mixdist.errors import HangError, MixdistError, PeerError, UserError
from mixdist.launchers import torchrun_names
from mixdist.rendezvous import JOIN_S, shared_store

T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """One process's place in the run. Collectives are no-ops in a world of one."""

    rank: int
    local_rank: int
    size: int
    local_size: int
    device: torch.device

    @staticmethod
    def alone(device: torch.device) -> World:
        """Return a world of one."""
        return World(rank=0, local_rank=0, size=1, local_size=1, device=device)

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

    def from_main(self, value: T) -> T:
        """Return rank 0's value of a small picklable object on every rank."""
        if self.size == 1:
            return value
        box: list[Any] = [value]
        dist.broadcast_object_list(box, src=0, device=self.device)
        received: T = box[0]
        return received

    def gather(self, value: T) -> list[T]:
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
    """Read this process's place from the environment of torchrun, srun or mpirun; without one, a world of one.

    The environment then holds it by torchrun's names, which the rendezvous, the command line and DeepSpeed read.

    Raises:
        UserError: a variable that is no number, more local ranks than GPUs; see `torchrun_names`.
    """
    os.environ.update(torchrun_names(os.environ))
    try:
        rank, local, size, local_size = (
            int(os.environ.get(name, default))
            for name, default in (("RANK", 0), ("LOCAL_RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_WORLD_SIZE", 1))
        )
    except ValueError as error:
        raise UserError(f"environment: RANK, LOCAL_RANK and WORLD_SIZE should be numbers ({error})") from None
    if not torch.cuda.is_available():
        return World(rank, local, size, local_size, torch.device("cpu"))
    gpus = torch.cuda.device_count()
    if local >= gpus and not _sees_its_own_alone(gpus, local):
        raise UserError(
            f"local rank {local} has no GPU: this machine has {gpus}; "
            f"start torchrun with --nproc_per_node={gpus} at most"
        )
    return World(rank, local, size, local_size, torch.device("cuda", min(local, gpus - 1)))


def _sees_its_own_alone(gpus: int, local: int) -> bool:
    """Whether Slurm hides the other ranks' GPUs from this one (``srun --gpus-per-task=1``)."""
    return gpus == 1 and "SLURM_GPUS_PER_TASK" in os.environ and os.environ.get("SLURM_LOCALID") == str(local)


FALLEN = "mixdist/fallen"  # key of the store: which rank failed alone, and of what
BROKE_OFF = ("gloo", "ncclRemoteError", "communicator was aborted")
COLLECTIVE_TIMEOUT = timedelta(hours=4)  # longer than any rank decodes or waits; a hang is the watchdog's affair


def _backend(world: World) -> str:
    return "nccl" if world.device.type == "cuda" else "gloo"


@contextmanager
def process_group(world: World) -> Iterator[Store | None]:
    """Join the process group (NCCL on GPUs, gloo elsewhere) for the length of the block; yields its store.

    After an error the group is left as it is: its destruction would wait for ranks that wait for this one.

    Raises:
        MixdistError: see `shared_store`.
        PeerError: a collective broke off because another rank had failed, which has said why, or is gone.
    """
    if world.device.type == "cuda":
        torch.cuda.set_device(world.device)
        os.environ.setdefault("TORCH_FR_BUFFER_SIZE", "2000")  # collectives that NCCL remembers, for the watchdog
        # Our watchdog dumps them. NCCL's own asks for it by a key of the store that outlives the ranks under torchrun,
        # and so would end each later start.
        os.environ.setdefault("TORCH_NCCL_DUMP_ON_TIMEOUT", "0")
    if world.size == 1:
        yield None
        return
    store = shared_store(world.rank, world.size)
    store.set_timeout(COLLECTIVE_TIMEOUT)  # for groups that are made later
    with _ended_after(JOIN_S):
        dist.init_process_group(
            _backend(world),
            store=store,
            rank=world.rank,
            world_size=world.size,
            timeout=COLLECTIVE_TIMEOUT,
            device_id=world.device if world.device.type == "cuda" else None,
        )
    try:
        with failures_told(world, store):
            yield store
    except RuntimeError as error:
        if not _broke_off(error):
            raise
        if world.device.type != "cuda":  # NCCL's would wait for the rank that is gone
            dist.destroy_process_group()
        raise PeerError(f"stopped, because {_why(store)}").everywhere() from error
    dist.destroy_process_group()


@contextmanager
def _ended_after(seconds: float) -> Iterator[None]:
    """End the process where the block takes longer: NCCL waits for a rank that has stopped, or is cut off, for ever."""
    timer = threading.Timer(seconds, _end_in_vain, [seconds])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _end_in_vain(seconds: float) -> None:
    text = (
        f"the ranks have found the store, but not each other within {seconds:.0f} s: one has stopped, or their network "
        f"is another one (GLOO_SOCKET_IFNAME, NCCL_SOCKET_IFNAME)"
    )
    tell_launcher(text)
    sys.stderr.write(f"mixdist: error: {text}\n")
    sys.stderr.flush()
    os._exit(HangError.exit_code)


@contextmanager
def failures_told(world: World, store: Store | None) -> Iterator[None]:
    """Tell the other ranks and the launcher at once of an error that only this rank has; it is raised all the same."""
    try:
        yield
    except BaseException as error:
        if is_own(error):
            tell_launcher(str(error) if isinstance(error, MixdistError) else traceback.format_exc())
            if store is not None:
                with suppress(RuntimeError):  # the store is gone as well
                    host = socket.gethostname()
                    store.compare_set(FALLEN, "", f"rank {world.rank} ({host}) failed: {describe(error)}")
        raise


def is_own(error: BaseException) -> bool:
    """Whether an error is of this rank alone: neither raised by all ranks together, nor the loss of another rank."""
    return not getattr(error, "collective", False) and not _broke_off(error)


def describe(error: BaseException) -> str:
    """Return an error as one line."""
    text = " ".join(str(error).split())
    return text if isinstance(error, MixdistError) else f"{type(error).__name__}: {text}".rstrip(": ")


def _broke_off(error: BaseException) -> bool:
    """Whether an error says that a collective lost its other end: gloo and NCCL have no type of their own for it."""
    told = isinstance(error, RuntimeError) and any(word in str(error) for word in BROKE_OFF)
    return told or isinstance(error, DistNetworkError)


def _why(store: Store) -> str:
    try:
        return store.get(FALLEN).decode() if store.check([FALLEN]) else "another rank is gone: killed, or cut off"
    except RuntimeError:
        return "the other ranks and the store are gone: killed, or cut off"


def tell_launcher(text: str) -> None:
    """Leave the error for torchrun, which ends its output with that of the first rank that failed."""
    if path := os.environ.get("TORCHELASTIC_ERROR_FILE"):
        details = {"py_callstack": text, "timestamp": str(int(time.time()))}
        with suppress(OSError):
            Path(path).write_text(json.dumps({"message": {"message": text, "extraInfo": details}}), encoding="utf-8")


def join_alone(world: World) -> None:
    """Give a world of one a process group, for libraries that cannot do without; it lasts as long as the process."""
    if world.size > 1 or dist.is_initialized():
        return
    dist.init_process_group(_backend(world), store=HashStore(), rank=0, world_size=1)
    atexit.register(_leave_alone)


def _leave_alone() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def leave_together() -> None:
    """Leave the process group when all ranks are here, after an error that all of them raised.

    torchrun ends every rank as soon as one has left; without this, that may be before rank 0 has said what is wrong.
    """
    if dist.is_initialized():
        with suppress(RuntimeError):  # one of them is gone after all
            dist.barrier()
        dist.destroy_process_group()
