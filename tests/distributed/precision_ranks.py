"""What each rank of test_precision_ranks.py runs: updates in fp16 and bf16; the last rank has one that is not finite.

Arguments: folder of a packed set, folder for what each rank ends with.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import torch
from engine_ranks import UPDATES, make_trainer, poisoned

from mixdist.engine.parity import train_a_little
from mixdist.world import process_group, read_world


def main() -> None:
    data, folder = sys.argv[1:]
    world = read_world()
    last = replace(world, rank=1 if world.rank + 1 == world.size else 0)  # whose gradient is not a number once
    with process_group(world):
        for precision in ("fp16", "bf16"):
            trainer = make_trainer(data, {"train.precision": precision, "optim.clip_grad": 0.05}, world)
            if precision == "fp16":  # at the usual scale, the first gradients of so small a model overflow
                trainer.scaler = torch.amp.GradScaler("cpu", init_scale=256)
            own_updater = trainer.updater
            trainer.updater = lambda phase, own=own_updater: poisoned(own(phase), last)  # type: ignore[misc]
            start = {name: value.clone() for name, value in trainer.model.state_dict().items()}
            phase = next(phase for phase in trainer.plan.phases if phase.name == "mix")
            trained = train_a_little(trainer, phase, UPDATES)
            ended = {
                "start": start,
                "end": trainer.model.state_dict(),
                "applied": trained.applied,
                "scale": trainer.scaler.get_scale(),
            }
            torch.save(ended, Path(folder) / f"{precision}-{world.rank}-of-{world.size}.pt")


if __name__ == "__main__":
    main()
