"""What each rank of test_engines.py runs: many engines in one process group, compared; rank 0 writes what came out.

Arguments: folder of a packed set, file for the answer, and the names of the settings in SETTINGS.
"""

from __future__ import annotations

import json
import math
import sys
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from mixdist.assembly import build_trainer
from mixdist.config.read import read_config
from mixdist.config.train_section import ParallelConfig
from mixdist.data.samples import find_samples
from mixdist.engine.loop import Trainer
from mixdist.engine.parity import Trained, difference, train_a_little
from mixdist.engine.update import Updater
from mixdist.model.mixmodel import build_model
from mixdist.plan import Phase, make_plan
from mixdist.runfolder import RunFolder
from mixdist.world import World, process_group, read_world

DDP = {"strategy": "ddp"}
ZERO = {f"zero-{stage}": {"strategy": "deepspeed", "zero_stage": stage} for stage in range(4)}
OFFLOAD = {f"zero-{stage}-offload": {"strategy": "deepspeed", "zero_stage": stage, "offload": True} for stage in (2, 3)}
FSDP = {"fsdp": {"strategy": "fsdp"}}
NO_SMALL = "no-small-parameters.json"  # so small as here, ZeRO 3 would keep all parameters whole on every rank

# 97 images, 49 of them labelled: an epoch's last batch of 14 holds 13 or 7, of 22 it holds 9 or 5.
TRAIN = {
    "method.ssl_epochs": 6,
    "method.sl_epochs": 6,
    "method.mix_ratio": 0.5,
    "method.input_ratio": 0.5,  # so that MIX has partners
}
BATCH = {1: 14, 2: 14, 4: 22}  # by number of ranks
MICRO_BATCH = {1: 5, 2: 3, 4: 2}  # of which a full batch takes 3
ACCUMULATED: dict[str, Any] = {"train.micro_batch": "that of MICRO_BATCH"}
CLIPPED = {"optim.clip_grad": 0.05}
VIT = {
    "model.patch_size": 2,
    "model.options": "{depth: 1, embed_dim: 32, num_heads: 2}",
    "model.decoder_depth": 1,
    "model.decoder_heads": 2,
}
RESNET = {"model.backbone": "resnet18", "model.options": "{layers: [1, 1, 1, 1], channels: [8, 8, 16, 16]}"}
ALL = ("ssl", "mix", "sl")
SETTINGS: dict[str, tuple[dict[str, Any], dict[str, Any], tuple[str, ...]]] = {  # name -> config, engines, phases
    "plain": ({}, ZERO | FSDP, ALL),
    "clipped": (CLIPPED, ZERO | FSDP, ALL),
    "accumulated": (ACCUMULATED, ZERO | FSDP, ALL),
    "accumulated-clipped": (ACCUMULATED | CLIPPED, ZERO | FSDP, ALL),
    "offload": (ACCUMULATED | CLIPPED, OFFLOAD, ("mix",)),
    "resnet": (ACCUMULATED | CLIPPED | RESNET, {"zero-2": ZERO["zero-2"], **FSDP}, ("mix",)),
}
MATRIX = tuple(SETTINGS)[:4]
POISONED = 2  # update of "plain"'s MIX in which rank 1 alone meets a gradient that is not finite
UPDATES = 5


def make_trainer(data: str, changes: dict[str, Any], world: World) -> Trainer:
    model_of = {} if "model.backbone" in changes else VIT
    asked = {"data.sl": data, "data.cache": "none", "data.workers": 0, "train.precision": "fp32", **model_of, **TRAIN}
    asked |= {"train.batch": BATCH[world.size], **changes}
    if "train.micro_batch" in changes:
        asked["train.micro_batch"] = MICRO_BATCH[world.size]
    config = read_config([text for key, value in asked.items() for text in (f"--{key}", str(value))])
    samples = find_samples(config)
    plan = make_plan(config, samples.counts, world.size)
    model = build_model(config, samples.image_size, samples.counts.classes)
    return build_trainer(config, samples, plan, model, RunFolder(config.run.dir), world)


def under(trainer: Trainer, engine: dict[str, Any], phase: Phase, folder: Path) -> None:
    """Let the trainer build its next strategy by these settings."""
    really = engine.get("zero_stage") == 3 and phase.name == "mix"  # every small parameter is a collective: slow
    extra = {"deepspeed_config": folder / NO_SMALL} if really else {}
    trainer.config = trainer.config.model_copy(update={"parallel": ParallelConfig(**engine, **extra)})


def poisoned(update: Updater, world: World) -> Updater:
    """Make rank 1's gradient of one update not a number; without accumulation, an update is one backward."""
    strategy, seen, backward = update.strategy, [], update.strategy.backward

    def poison(loss: torch.Tensor) -> None:
        seen.append(None)
        backward(loss * math.nan if world.rank == 1 and len(seen) == POISONED + 1 else loss)

    strategy.backward = poison  # type: ignore[method-assign]
    return update


def compare(trainer: Trainer, name: str, folder: Path) -> list[dict[str, Any]]:
    """Return a row for each engine and phase of a setting."""
    _, engines, phases = SETTINGS[name]
    start = {key: value.clone() for key, value in trainer.model.state_dict().items()}
    if name == "plain":
        plain_updater = trainer.updater
        trainer.updater = lambda phase: (  # type: ignore[method-assign]
            poisoned(plain_updater(phase), trainer.world) if phase.name == "mix" else plain_updater(phase)
        )
    rows = []
    for phase in (each for each in trainer.plan.phases if each.name in phases):
        reference: Trained | None = None
        for engine, settings in {"ddp": DDP, **engines}.items():
            under(trainer, settings, phase, folder)
            trainer.model.load_state_dict(start)
            trained = train_a_little(trainer, phase, UPDATES)
            reference = reference or trained
            found = difference(reference, trained)
            rows.append({"engine": engine, "phase": phase.name, "applied": trained.applied, **asdict(found)})
            if name == "accumulated-clipped" and phase.name == "mix":
                rows[-1]["taken_up"] = taken_up(trainer, phase, reference, start)
    return rows


def taken_up(trainer: Trainer, phase: Phase, reference: Trained, start: dict[str, torch.Tensor]) -> dict[str, Any]:
    """Take up DDP's moments under the engine that the trainer is set to, and make an update with them.

    Returns:
        whether they came back bit for bit, and the parameters after the update.
    """
    trainer.model.load_state_dict(start)
    update = trainer.updater(phase)
    with closing(update.strategy) as strategy:
        strategy.load_moments(reference.moments)
        back = strategy.moments()
        same = all(
            torch.equal(value, back[name][key])
            for name, state in reference.moments.items()
            for key, value in state.items()
        )
        with closing(trainer.feed.train[phase.name].epoch(phase.first_epoch, 1)) as stream:
            update(next(stream), step=UPDATES)
        strategy.publish()
        step = float(next(iter(strategy.moments().values()))["step"])
    squares = sum(float(value.double().square().sum()) for value in trainer.model.parameters())
    movement = sum(float((value - start[name]).abs().sum()) for name, value in trainer.model.named_parameters())
    return {"same": same, "step": step, "squares": squares, "movement": movement}


def main() -> None:
    data, answer, *names = sys.argv[1:]
    folder = Path(answer).parent
    world = read_world()
    if world.is_main:
        small = {"zero_optimization": {"stage3_param_persistence_threshold": 0}}
        (folder / NO_SMALL).write_text(json.dumps(small))
    found = {}
    with process_group(world):
        world.from_main(None)  # the file is there
        for name in names:
            found[name] = compare(make_trainer(data, SETTINGS[name][0], world), name, folder)
    if world.is_main:
        Path(answer).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
