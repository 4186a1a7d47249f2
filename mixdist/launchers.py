"""What a launcher says in the environment -> torchrun's names: srun, mpirun and the deepspeed launcher.

Every other place reads torchrun's names only: RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR, MASTER_PORT.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping

from mixdist.errors import UserError

Environment = Mapping[str, str]

# Rank, size, local rank, local size.
OPEN_MPI = (
    "OMPI_COMM_WORLD_RANK",
    "OMPI_COMM_WORLD_SIZE",
    "OMPI_COMM_WORLD_LOCAL_RANK",
    "OMPI_COMM_WORLD_LOCAL_SIZE",
)
HYDRA = ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS")  # of MPICH and Intel MPI
PORT = 29500  # torch's own
JOBS = ("PMIX_NAMESPACE", "SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID")  # each the same on all ranks; the first is mpirun's


def torchrun_names(environ: Environment) -> dict[str, str]:
    """Return what torchrun would have set, by its names; empty where no launcher started this process.

    torchrun's own values win: under Slurm it is itself started by srun. So do Open MPI's: in a Slurm job its mpirun
    starts its daemons by srun, whose variables the ranks inherit. Hydra's come after Slurm's, whose srun may set them
    as well. A Slurm batch script and an interactive shell have no step of several tasks, so what is started in them
    without srun is alone.

    Raises:
        UserError: ranks on several nodes and no word of where rank 0 is, or a value that is no number.
    """
    if "RANK" in environ:
        return _of_torchrun(environ)
    by_open_mpi = OPEN_MPI[0] in environ
    found = _of_mpi(environ, OPEN_MPI) if by_open_mpi else _of_slurm(environ) or _of_mpi(environ, HYDRA)
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        if found and name in environ:
            found[name] = environ[name]
    return found


def is_restart(environ: Environment) -> bool:
    """Say whether a launcher starts this process again by itself, with the arguments of the first start.

    torchrun's agents count what failed on their own node, so that the ranks of one start may differ in this.
    """
    return any(environ.get(name, "0") != "0" for name in ("TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT"))


def without_local_rank(argv: list[str], environ: Environment) -> list[str]:
    """Leave out the ``--local_rank=N`` that the deepspeed launcher puts before the user's arguments."""
    given = f"--local_rank={environ.get('LOCAL_RANK')}"
    return argv[1:] if argv[:1] == [given] else argv


def _of_torchrun(environ: Environment) -> dict[str, str]:
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    found = {name: environ[name] for name in names if name in environ}
    if "LOCAL_SIZE" in environ:  # as the deepspeed launcher calls it
        found.setdefault("LOCAL_WORLD_SIZE", environ["LOCAL_SIZE"])
    return found


def _of_slurm(environ: Environment) -> dict[str, str]:
    size = environ.get("SLURM_STEP_NUM_TASKS", "1")
    if size == "1" or "SLURM_PROCID" not in environ:
        return {}
    job, step = (_number(environ, name, "0") for name in ("SLURM_JOB_ID", "SLURM_STEP_ID"))
    return {
        "RANK": environ["SLURM_PROCID"],
        "WORLD_SIZE": size,
        "LOCAL_RANK": environ.get("SLURM_LOCALID", "0"),
        "LOCAL_WORLD_SIZE": str(_tasks_on_node(environ)),
        "MASTER_ADDR": _first_host(environ),
        "MASTER_PORT": str(20000 + (job * 7 + step) % 20000),  # the same on all ranks, another for the next job
    }


def _tasks_on_node(environ: Environment) -> int:
    """Return this node's count of "4(x2),3": two nodes of four tasks, one of three."""
    text = environ.get("SLURM_STEP_TASKS_PER_NODE", environ.get("SLURM_TASKS_PER_NODE", "1"))
    counts: list[int] = []
    for tasks, nodes in re.findall(r"(\d+)(?:\(x(\d+)\))?", text):
        counts += [int(tasks)] * int(nodes or 1)
    node = _number(environ, "SLURM_NODEID", "0")
    return counts[node] if node < len(counts) else 1


def _first_host(environ: Environment) -> str:
    """Return the first of "node[003-007,9],other", where rank 0 runs."""
    names = environ.get("SLURM_STEP_NODELIST", environ.get("SLURM_NODELIST", ""))
    if match := re.match(r"([^,\[]+)(?:\[(\w+)[^\]]*\])?([^,\[]*)", names):
        stem, number, rest = match.groups()
        return f"{stem}{number or ''}{rest}"
    if address := environ.get("SLURM_LAUNCH_NODE_IPADDR"):
        return address
    raise UserError("environment: Slurm names no node (SLURM_STEP_NODELIST); set MASTER_ADDR to the host of rank 0")


def _of_mpi(environ: Environment, names: tuple[str, str, str, str]) -> dict[str, str]:
    rank, size, local, local_size = names
    if environ.get(size, "1") == "1" or rank not in environ:
        return {}
    alone = environ.get(local_size) == environ[size]  # all ranks on this node
    if not alone and "MASTER_ADDR" not in environ:
        raise UserError(
            f"environment: {rank} says that MPI started this rank, but not where rank 0 is; start with MASTER_ADDR "
            f"set to its host, as mpirun -x MASTER_ADDR=HOST does"
        )
    job = next((environ[name] for name in JOBS if environ.get(name)), None)
    return {
        "RANK": environ[rank],
        "WORLD_SIZE": environ[size],
        "LOCAL_RANK": environ.get(local, "0"),
        "LOCAL_WORLD_SIZE": environ.get(local_size, "1"),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(PORT if job is None else 20000 + zlib.crc32(job.encode()) % 20000),
    }


def _number(environ: Environment, name: str, default: str) -> int:
    try:
        return int(environ.get(name, default))
    except ValueError:
        raise UserError(f"environment: {name} should be a number, got {environ[name]!r}") from None
