"""Nodes that share no disk: a run that one of them cannot take up ends on all of them, in one line."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import pytest
from launching import QUIET, TINY_VIT, flags, run, torchrun, train_here

SETTINGS = {**QUIET, **TINY_VIT, "method.ssl_epochs": 1, "method.sl_epochs": 0, "train.batch": 16}


@pytest.mark.distributed
@pytest.mark.slow
def test_a_checkpoint_that_is_on_one_node_alone_is_refused_on_all(
    packed_sets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {**SETTINGS, "data.sl": packed_sets / "tiny"}
    for rank in (0, 1):
        (tmp_path / f"node-{rank}").mkdir()
    monkeypatch.chdir(tmp_path / "node-0")
    assert train_here(settings) == 0
    (tmp_path / "node-0" / "runs" / "run" / "result.json").unlink()

    command = shlex.join([sys.executable, "-m", "mixdist.train", *flags(settings)])
    on_two_nodes = ["--no-python", "bash", "-c", f"cd {tmp_path}/node-$RANK && exec {command}"]
    done = run(torchrun(2, *on_two_nodes), tmp_path)

    assert 2 in done.exit_codes
    assert (len(done.errors), done.own_tracebacks) == (1, []), done.err
    assert "is not on this node; put run.dir on a disk that all nodes share (on rank 1 of 2)" in done.errors[0]
