"""One rank of the doctor's test, `mixdist.doctor.child MEETING RANK COUNT`; names each stage behind it."""

from __future__ import annotations

import sys
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import FileStore

VALUES = 2**18
TIMEOUT = timedelta(seconds=60)  # longer than the parent waits


def main(meeting: str, rank: int, count: int) -> int:
    """Join the others, sum numbers with them, and on GPUs read each peer's memory; return the exit code."""
    _behind("started")
    gpu = torch.cuda.is_available()
    device = torch.device("cuda", rank) if gpu else torch.device("cpu")
    if gpu:
        torch.cuda.set_device(device)
    store = FileStore(meeting, count)
    dist.init_process_group("nccl" if gpu else "gloo", store=store, rank=rank, world_size=count, timeout=TIMEOUT)
    _behind("joined")
    values = torch.full((VALUES,), float(rank + 1), device=device)
    dist.all_reduce(values)
    expected = count * (count + 1) / 2
    if not bool((values == expected).all()):
        sys.stdout.write(f"the sum is {values[:4].tolist()}, not {expected}\n")
        return 1
    _behind("all-reduce")
    if gpu and not _peers_agree(rank, count):
        return 1
    if gpu:
        _behind("peer copies")
    dist.barrier()
    dist.destroy_process_group()
    return 0


def _peers_agree(rank: int, count: int) -> bool:
    """Copy to every other GPU and back: some boards give other bytes, without an error."""
    own = torch.arange(VALUES, device=f"cuda:{rank}")
    for peer in range(count):
        there = own.to(f"cuda:{peer}").to("cpu")
        if not torch.equal(there, own.cpu()):
            sys.stdout.write(f"GPU {peer} holds other bytes than GPU {rank} sent\n")
            return False
    return True


def _behind(stage: str) -> None:
    sys.stdout.write(f"{stage}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).as_posix(), int(sys.argv[2]), int(sys.argv[3])))
