"""The rooms put together: a Config and its samples -> a Trainer on this world's device, and what is told of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from mixdist.config.schema import Config
from mixdist.config.train_section import ParallelConfig
from mixdist.data.open import open_feed, resident_bytes
from mixdist.data.samples import Samples
from mixdist.engine import heartbeat
from mixdist.engine.checkpoint import Checkpoints, identity, shared
from mixdist.engine.compiling import check_compiler
from mixdist.engine.fit import fit_micro_batch
from mixdist.engine.loop import Trainer
from mixdist.engine.precision import allow_tf32, choose_precision
from mixdist.engine.result import confusion_json, facts
from mixdist.engine.snapshot import reconstruction_png
from mixdist.errors import UserError
from mixdist.files import atomic, write_text
from mixdist.model.mixmodel import MixModel, build_model
from mixdist.plan import Plan, epochs_of, make_plan
from mixdist.runfolder import RunFolder
from mixdist.tracking import PhaseInfo, RunInfo
from mixdist.world import World


def run_identity(config: Config, samples: Samples) -> dict[str, str]:
    """Return what makes this run this run: its settings, and the content of its packed sets."""
    return identity(config, _content(samples))


def _content(samples: Samples) -> dict[str, str]:
    beside = {f"data.tasks.{task.name}": task.packed.fingerprint for task in samples.tasks}
    return {"data.sl": samples.sl.fingerprint, "data.ssl": samples.ssl.fingerprint, **beside}


def check_same_run(config: Config, samples: Samples, world: World) -> None:
    """Refuse a rank with other settings or data than rank 0: their steps would differ, and each wait for the other.

    Raises:
        UserError: on the ranks that differ.
    """
    own = shared(config, _content(samples))
    main = world.from_main(own)
    differing = [
        f"{key} is {own.get(key)}, on rank 0 {main.get(key)}" for key in main | own if own.get(key) != main.get(key)
    ]
    if differing:
        raise UserError(f"{'; '.join(differing)}: start all ranks with the same settings and copies of the same set")


def build_trainer(
    config: Config, samples: Samples, plan: Plan, model: MixModel, folder: RunFolder, world: World
) -> Trainer:
    """Put the rooms together on this world's device."""
    precision = choose_precision(config.train.precision, world.device)
    allow_tf32(config.train.tf32, world.device)
    model = model.to(world.device)
    if model.backbone.layout == "map":
        model = model.to(memory_format=torch.channels_last)
    fitted, notes = None, []
    if config.train.micro_batch == "auto":  # ranks agree on each try: nothing that fails on one alone may come before
        resident = resident_bytes(config, samples, world.device)
        fitted, note = fit_micro_batch(config, plan, model, precision, resident, world)
        notes.append(note)
    if config.train.compile:
        check_compiler(world.device)
    quarantine = folder.quarantine if world.is_main else None
    feed = open_feed(config, samples, world, quarantine, fitted, heartbeat.alive)
    feed = replace(feed, notes=(*notes, *feed.notes))

    def masks_input(epoch: int | None) -> bool:
        """Say whether it is an SSL phase that trained R last, and masks its input."""
        epochs = epochs_of(config.method)
        last_by_ssl = epochs["mix"] == 0 if epoch is None else epoch <= epochs["ssl"]
        return config.method.ssl_masking == "input" and last_by_ssl

    def reconstructed(model: MixModel, epoch: int | None) -> str:
        path = folder.reconstruction if epoch is None else folder.reconstructions / f"epoch-{epoch:04d}.png"
        if world.is_main:
            path.parent.mkdir(exist_ok=True)
            with atomic(path) as file:
                file.write(reconstruction_png(model, feed, precision, masks_input(epoch)))
        return path.relative_to(folder.path).as_posix()

    def confused(counts: list[list[int]]) -> None:
        write_text(folder.confusion, confusion_json(samples.sl.classes, counts))

    return Trainer(
        config=config,
        plan=plan,
        model=model,
        feed=feed,
        world=world,
        precision=precision,
        checkpoints=Checkpoints(
            folder.checkpoints, run_identity(config, samples), config.run.keep_checkpoints, config.run.keep_best
        ),
        reconstructed=reconstructed,
        confused=confused,
        not_finite=folder.not_finite,
    )


def passing_trainer(config: Config, samples: Samples, folder: Path, world: World) -> Trainer:
    """Build a run to be looked at: in a folder that goes away, under DDP, decoding no more of the set than is used."""
    config = config.model_copy(
        update={
            "data": config.data.model_copy(update={"cache": "none", "workers": 0}),
            "run": config.run.model_copy(update={"dir": folder}),
            "parallel": ParallelConfig(),
        }
    )
    plan = make_plan(config, samples.counts, world.size)
    model = build_model(config, samples.image_size, samples.counts.classes)
    return build_trainer(config, samples, plan, model, RunFolder(folder), world)


def run_info(config: Config, plan: Plan, trainer: Trainer, samples: Samples) -> RunInfo:
    """Tell the trackers what starts."""
    world = trainer.world
    device = "1 process" if world.size == 1 else f"{world.size} processes"
    parallel = config.parallel
    layout = {"deepspeed": f", deepspeed ZeRO {parallel.zero_stage}", "fsdp": ", fsdp"}.get(parallel.strategy, "")
    parameters = sum(parameter.numel() for parameter in trainer.model.parameters()) / 1e6
    title = (
        f"{config.method.arm}: {config.model.backbone}, {parameters:.2f} M parameters, "
        f"{device} on {world.device.type}{layout}, {trainer.precision.name}, global batch {config.train.batch}",
        *trainer.feed.notes,
        *([f"train.align_every: cosines over {', '.join(trainer.alignment.layer)}"] if trainer.alignment else []),
    )
    return RunInfo(
        folder=config.run.dir,
        config=config.model_dump(mode="json"),
        plan=tuple(PhaseInfo(phase.name, phase.epochs, phase.steps) for phase in plan.phases),
        first_step=trainer.recorded,
        run_name=config.run.dir.name,
        group=config.tracking.group or config.run.dir.resolve().parent.name,
        arm=config.method.arm,
        title=title,
        world_size=world.size,
        tags=(config.method.arm, config.model.backbone, samples.sl.folder.name, *config.tracking.tags),
        facts=facts(trainer, samples) if world.is_main else {},
        carried=trainer.tracked,
    )
