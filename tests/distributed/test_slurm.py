"""A real Slurm of one node runs launch/slurm.sbatch: preempted, requeued, and finished as if nothing had been."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from disturbing import SETTINGS
from launching import environment, flags, records, run, train, wait_for

from benchmarks.faults_run import differing

SCRIPT = Path(__file__).parents[2] / "launch" / "slurm.sbatch"
DAEMONS = ("munged", "slurmctld", "slurmd")

pytestmark = [
    pytest.mark.minutes,
    pytest.mark.distributed,
    pytest.mark.skipif(
        os.geteuid() != 0 or any(shutil.which(name) is None for name in DAEMONS),
        reason="needs root, slurm-wlm and munge; .ci/run installs them and runs it",
    ),
]

# A job of "high" takes the node from one of "low", which is signalled first, as before its time limit. A job that is
# requeued waits for cred_expire seconds (120 by default).
CONFIG = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=cred_expire=15,socket={folder}/munge.socket
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SelectType=select/cons_tres
MpiDefault=none
SchedulerParameters=sched_interval=2
SlurmctldParameters=preempt_send_user_signal
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} State=UNKNOWN
PartitionName=low Nodes={host} Default=YES PriorityTier=1 GraceTime=100
PartitionName=high Nodes={host} PriorityTier=10
"""


@pytest.fixture
def slurm(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Start Slurm's daemons; yields the environment in which its commands speak to them."""
    folder = tmp_path / "slurm"
    (folder / "state").mkdir(parents=True)
    (folder / "key").write_bytes(secrets.token_bytes(64))
    (folder / "key").chmod(0o600)
    host, ports = socket.gethostname().partition(".")[0], free_ports(2)
    config = CONFIG.format(host=host, folder=folder, ports=ports, cpus=os.cpu_count())
    (folder / "slurm.conf").write_text(config)
    own = {
        **environment(),
        "SLURM_CONF": str(folder / "slurm.conf"),
        "PATH": f"{Path(sys.executable).parent}:{environment()['PATH']}",
    }
    files = [f"--{name}={folder}/munge.{name}" for name in ("socket", "pid-file", "log-file", "seed-file")]
    munge = ["munged", "--foreground", "--force", f"--key-file={folder}/key", *files]
    daemons = [
        subprocess.Popen(command, env=own, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for command in (munge, ["slurmctld", "-D", "-c"], ["slurmd", "-D"])
    ]
    try:
        wait_for(lambda: "idle" in said(["sinfo", "-h"], own))
        yield own
    finally:
        said(["scancel", "--user=root"], own)
        for daemon in reversed(daemons):
            daemon.terminate()
            daemon.wait(60)


def free_ports(count: int) -> list[int]:
    servers = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [server.getsockname()[1] for server in servers]
    for server in servers:
        server.close()
    return ports


def said(command: list[str], own: dict[str, str]) -> str:
    return subprocess.run(command, env=own, capture_output=True, text=True, check=False).stdout


def submit(arguments: list[str], own: dict[str, str], folder: Path) -> str:
    done = subprocess.run(
        ["sbatch", "--parsable", "--gpus-per-node=0", f"--cpus-per-task={os.cpu_count()}", *arguments],
        env=own, cwd=folder, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout.strip()


def test_a_job_that_is_preempted_is_requeued_and_ends_with_the_same_weights(packed_sets, tmp_path, slurm):
    # Long enough to be still at work when the other job is scheduled, some seconds after step 10.
    settings = {**SETTINGS, "data.sl": packed_sets / "digits", "method.sl_epochs": 60}
    own = settings | {"run.dir": "undisturbed"}
    assert run(train(1, own), tmp_path).code == 0
    job = submit(["--partition=low", "--time=30", str(SCRIPT), "run", *flags(settings)], slurm, tmp_path)
    wait_for(lambda: any(record["step"] >= 10 for record in records(tmp_path / "run")))
    other = submit(["--partition=high", "--time=5", "--wrap=true"], slurm, tmp_path)
    wait_for((tmp_path / "run" / "result.json").is_file)
    log = (tmp_path / f"slurm-{job}.out").read_text()
    assert "mixdist: stopped by SIGUSR1 on rank 0 at step" in log
    assert "going on after step" in log
    assert (tmp_path / f"slurm-{other}.out").is_file()
    steps = [[record["step"] for record in records(tmp_path / name)] for name in ("run", "undisturbed")]
    assert steps[0] == steps[1] == list(range(1, len(steps[1]) + 1))
    assert differing(tmp_path / "run", tmp_path / "undisturbed") == []
