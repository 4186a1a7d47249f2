"""Seconds an image of each phase's step and of an evaluation, by a short probe of the real model on random pixels."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from mixdist.engine.passes import INPUT, open_passes, time_passes
from mixdist.paper.pass_timing import make_trainer
from mixdist.world import read_world

GPU_ROWS = 256  # Tables 12 and 13
CPU_ROWS = {"vit_tiny": 16, "resnet18": 64}  # of which a step takes a second, so that AdamW weighs little in it
ROUNDS = 2
TELLING = (  # settings that the time of an image follows
    "model.",
    "method.mask_ratio",
    "method.ssl_masking",
    "train.precision",
    "train.tf32",
    "train.compile",
    "train.gradient_checkpointing",
)
EVALUATION = 1 / 3  # of an SL step: a forward, of a forward and a backward of twice its work


@dataclass(frozen=True)
class Speed:
    """What was measured."""

    phases: Mapping[str, float]  #: seconds an image of a step, AdamW included, loading not
    evaluation: float  #: seconds an image
    device: str


def probe(backbone: str, file: Path, changes: Mapping[str, str], image_size: int) -> Speed:
    """Time steps of the three phases, in turn, on this machine's device: a batch on a GPU, less on a CPU.

    Args:
        backbone: the paper's.
        file: settings of the run.
        changes: the user's, by dotted key.
        image_size: pixels a side.

    Raises:
        UserError: a setting out of range, or a model that cannot be built.
    """
    world = read_world()
    rows = CPU_ROWS[backbone] if world.device.type == "cpu" else GPU_ROWS
    told = [f"--{key}={value}" for key, value in changes.items() if key.startswith(TELLING)]
    flags = [f"--config={file}", *told, f"--train.batch={rows}", f"--data.image_size={image_size}"]
    with tempfile.TemporaryDirectory() as work, ExitStack() as held:
        rounds = time_passes(open_passes(make_trainer(flags, Path(work), world, pixels=True), held), ROUNDS, steps=1)
    # The shortest: a busy machine makes a step longer, never shorter.
    phases = {name: min(one[name] for one in rounds) / rows for name in rounds[0]}
    phases["ssl"] = phases.pop(INPUT, phases["ssl"])  # what the phase does, where it masks its input
    return Speed(phases, phases["sl"] * EVALUATION, world.device.type)
