"""What only one rank sees ends the job on all of them, in time, with one line and no traceback."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
from launching import QUIET, TINY_VIT, Done, flags, run, torchrun, train

from mixdist.data.open_set import open_set
from mixdist.data.order import Order

pytestmark = [pytest.mark.distributed, pytest.mark.slow]

RANKS = 2
SETTINGS = {**QUIET, **TINY_VIT, "train.batch": 16, "method.ssl_epochs": 1, "method.sl_epochs": 1, "run.dir": "run"}


def damage(folder: Path, sample: int) -> str:
    """Flip the bits of a byte of an image in its shard; return how a message should name the image."""
    split = open_set(folder).split("train")
    row = split.index[sample]
    with (folder / split.shards[int(row["shard"])].name).open("r+b") as shard:
        shard.seek(int(row["offset"]) + int(row["size"]) // 2)
        flipped = bytes([shard.read(1)[0] ^ 0xFF])
        shard.seek(-1, 1)
        shard.write(flipped)
    return split.describe(sample)


def test_an_image_that_one_rank_finds_damaged_in_mid_epoch_ends_all(packed_sets: Path, tmp_path: Path) -> None:
    folder = tmp_path / "tiny"
    shutil.copytree(packed_sets / "tiny", folder)
    order = Order(np.arange(97), batch=16, seed=0, purpose="ssl")
    of_rank_1 = order.share(order.epoch(0), step=4, rank=1, world_size=RANKS, micro_batch=None)[0].visits
    named = damage(folder, int(of_rank_1[3]))

    done = run(train(RANKS, {**SETTINGS, "data.sl": folder, "data.cache": "none"}), tmp_path)

    assert done.code != 0
    line, *after = sorted(done.errors, key=lambda line: "stopped, because" in line)
    assert named in line
    assert "checksum differs" in line
    assert all("stopped, because rank 1" in other and named in other for other in after)
    assert len(after) <= 1  # none where torchrun was faster
    assert done.own_tracebacks == []
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 4  # the steps before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train.batch": 1}, "train.batch 1 is smaller than the 2 ranks; use at least 2"),
        ({"data.sl": "nowhere"}, "nowhere does not exist; make one with: mixdist pack SOURCE nowhere"),
        ({"model.backbone": "vit_tinny_patch16_224"}, "did you mean 'vit_tiny_patch16_224'?"),
        ({"train.batchsize": 32}, "unknown argument --train.batchsize; did you mean '--train.batch'?"),
    ],
)
def test_a_mistake_that_all_ranks_see_is_said_once(
    packed_sets: Path, tmp_path: Path, change: dict[str, object], message: str
) -> None:
    arguments = flags({**SETTINGS, "data.sl": packed_sets / "tiny", **change})
    # Rank 0, which speaks, comes last: torchrun ends it as soon as another rank has left.
    done = run(torchrun(RANKS, "--no-python", *shell('[ "$RANK" != 0 ] || sleep 2; exec "$@"', *arguments)), tmp_path)
    (line,) = done.errors
    assert message in line
    refused(done)


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ('--seed "$RANK"', "seed is 1, on rank 0 0"),
        ('--train.log_every "$((20 - RANK))"', "train.log_every is 19, on rank 0 20"),  # ranks meet at a record
    ],
)
def test_a_rank_with_other_settings_than_rank_0_is_refused_by_their_name(
    packed_sets: Path, tmp_path: Path, own: str, message: str
) -> None:
    arguments = flags({**SETTINGS, "data.sl": packed_sets / "tiny"})
    done = run(torchrun(RANKS, "--no-python", *shell(f'exec "$@" {own}', *arguments)), tmp_path)
    (line,) = done.errors
    assert message in line
    assert "(on rank 1 of 2)" in line
    refused(done)


def shell(script: str, *arguments: str) -> list[str]:
    """Return a command in which ``script`` has the training command as its arguments, and the rank as $RANK."""
    return ["bash", "-c", script, "bash", *train(1, {}), *arguments]


def refused(done: Done) -> None:
    """Check that the ranks left with 2; one that was still leaving may have been ended by torchrun."""
    assert done.code != 0
    assert 2 in done.exit_codes
    assert set(done.exit_codes) <= {2, -signal.SIGTERM}
    assert done.own_tracebacks == []
