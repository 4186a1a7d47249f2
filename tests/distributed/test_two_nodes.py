"""Two nodes as two network namespaces: the same weights as on one node, and an end when the network goes away."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from disturbing import SETTINGS
from launching import TIMEOUT_S, Done, flags, kill, records, start, wait_for

from benchmarks.faults_run import differing

NODES = Path(__file__).parents[1] / "two_nodes.sh"
NAME = f"mx{os.getpid() % 100000}"  # of namespaces and links, which has room for 15 characters


def permitted() -> bool:
    """Whether network namespaces can be made here."""
    if os.geteuid() != 0 or not shutil.which("ip"):
        return False
    made = subprocess.run(["ip", "netns", "add", f"{NAME}-try"], capture_output=True, check=False).returncode == 0
    if made:
        subprocess.run(["ip", "netns", "del", f"{NAME}-try"], check=True)
    return made


pytestmark = [
    pytest.mark.minutes,
    pytest.mark.distributed,
    pytest.mark.slow,
    pytest.mark.skipif(not permitted(), reason="needs root and `ip netns add`; .ci/run has both"),
]


@pytest.fixture
def network() -> Iterator[None]:
    subprocess.run([NODES, NAME, "up"], check=True)
    yield
    subprocess.run([NODES, NAME, "down"], check=True)


def on(node: int, *arguments: str) -> list[str]:
    """Return the command of one of two nodes with a rank each."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc_per_node=1", "--rdzv_id=two"]
    rendezvous = ["--rdzv_backend=c10d", "--rdzv_endpoint=10.77.0.1:29400", f"--local_addr=10.77.0.{node + 1}"]
    return [str(NODES), NAME, "in", str(node), *torchrun, *rendezvous, "-m", "mixdist.train", *arguments]


def test_two_nodes_train_as_one_does_and_end_when_the_link_between_them_is_cut(
    packed_sets: Path, undisturbed: Path, tmp_path: Path, network: None
) -> None:
    arguments = flags({**SETTINGS, "data.sl": packed_sets / "digits", "run.hang_timeout_s": 8})
    nodes = [start(on(node, *arguments), tmp_path) for node in (0, 1)]
    wait_for(lambda: len(records(tmp_path / "run")) >= 100, nodes[0])
    subprocess.run([NODES, NAME, "cut"], check=True)
    ended = []
    for process in nodes:
        try:
            out, err = process.communicate(timeout=TIMEOUT_S)
        except subprocess.TimeoutExpired:
            kill(process)
            raise
        ended.append(Done(process.returncode, out, err))
    assert [done.code for done in ended] == [1, 1]
    table = (tmp_path / "run" / "hang" / "table.txt").read_text()
    assert "does not answer any more, last seen: rank 1 (" in table
    assert table.rstrip() in ended[0].err
    # Node 1 has lost the store as well; its own network may be the first to tell it.
    assert "the run stands still: rank 1 (" in ended[1].err or "mixdist: error: stopped, because" in ended[1].err
    assert [line for done in ended for line in done.own_tracebacks] == []

    subprocess.run([NODES, NAME, "down"], check=True)
    subprocess.run([NODES, NAME, "up"], check=True)
    nodes = [start(on(node, *arguments), tmp_path) for node in (0, 1)]
    for process in nodes:
        out, err = process.communicate(timeout=TIMEOUT_S)
        assert process.returncode == 0, err
    assert differing(tmp_path / "run", undisturbed) == []
