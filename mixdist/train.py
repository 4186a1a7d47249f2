"""Entry of `torchrun -m mixdist.train`: read, plan, build the rooms, run, close. The one file that knows every room."""

from __future__ import annotations

import errno
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace

import torch
from torch._C._distributed_c10d import Store
from torch.distributed.elastic.multiprocessing import errors

from mixdist.config.read import read_config
from mixdist.config.schema import Config
from mixdist.data.open import open_feed, resident_bytes
from mixdist.data.samples import Samples, find_samples
from mixdist.data.task import Task
from mixdist.engine.checkpoint import Checkpoints, identity
from mixdist.engine.compiling import check_compiler
from mixdist.engine.error_report import error_kept
from mixdist.engine.fit import fit_micro_batch
from mixdist.engine.loop import Trainer
from mixdist.engine.precision import allow_tf32, choose_precision
from mixdist.engine.result import confusion_json, facts, make_result
from mixdist.engine.signals import Signals
from mixdist.engine.snapshot import reconstruction_png
from mixdist.engine.strategies import check_strategy
from mixdist.engine.watchdog import Watchdog
from mixdist.errors import MixdistError, PeerError, StoppedError, UserError
from mixdist.files import atomic, write_json, write_text
from mixdist.launchers import without_local_rank
from mixdist.model.mixmodel import MixModel, build_model
from mixdist.plan import Plan, epochs_of, make_plan
from mixdist.runfolder import RunFolder
from mixdist.tracking import PhaseInfo, RunInfo, Trackers, main_trackers
from mixdist.world import World, failures_told, leave_together, process_group, read_world, tell_launcher

SAVE_BUDGET_S = 25.0  # for a checkpoint, of the 30 s that torchrun gives its ranks to leave


@errors.record
def main(argv: list[str] | None = None) -> int:
    """Train as the command line says; return the exit code (docs/reliability.md).

    0: finished; 1: a fault, here or on another rank; 2: what the user can put right; 70: not finite too often;
    75: stopped by a signal and saved; 76: a rank stood still; 130: Ctrl-C with nothing to save, or a second one.
    """
    try:
        with Signals() as signals:
            world = read_world()
            with process_group(world) as store:
                with world.together():
                    config = read_config(without_local_rank(list(sys.argv[1:] if argv is None else argv), os.environ))
                return run(config, world, store, signals)
    except MixdistError as error:
        return leave(error)
    except KeyboardInterrupt:
        sys.stderr.write("mixdist: interrupted\n" if _is_main() else "")
        return 130


def _is_main() -> bool:
    return os.environ.get("RANK", "0") == "0"  # by torchrun's name whatever the launcher, once the world is read


def leave(error: MixdistError) -> int:
    """Say what went wrong, once, in an order in which torchrun takes the first cause for the cause."""
    if _is_main() or not error.collective:
        sys.stderr.write(f"mixdist: {'' if isinstance(error, StoppedError) else 'error: '}{error}\n")
    if isinstance(error, PeerError):
        time.sleep(1)  # torchrun reports the rank that it sees leave first
        return error.exit_code
    tell_launcher(str(error))
    if isinstance(error, StoppedError) and "RANK" in os.environ:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # sent by torchrun when the first of us has left
    if error.collective:
        leave_together()
    return error.exit_code


def run(config: Config, world: World, store: Store | None, signals: Signals) -> int:
    """Run one training in this process group."""
    with ExitStack() as held, full_disk_said(config):
        return _run(config, world, store, signals, held)


def _run(config: Config, world: World, store: Store | None, signals: Signals, held: ExitStack) -> int:
    began = time.perf_counter()
    folder = RunFolder(config.run.dir)
    with world.together():
        samples = find_samples(config)
        plan = make_plan(config, samples.counts, world.size)
        check_strategy(config, world)
        model = build_model(config, samples.image_size, samples.counts.classes)
        if world.is_main:
            held.enter_context(folder.held())
            folder.open(config.run.resume)
    with world.together():
        check_same_run(config, samples, world)
    with world.together():
        trainer = build_trainer(config, samples, plan, model, folder, world)
    with world.together():
        resumed = trainer.resume()
    if world.from_main(folder.result.is_file()) and trainer.progress.step == plan.steps:
        if world.is_main:
            sys.stdout.write(f"{folder.path} is finished (result.json); --run.resume fresh trains it again\n")
        return 0
    trackers = main_trackers(config.tracking) if world.is_main else Trackers()
    result = None
    try:
        with world.together():
            if world.is_main:
                task = Task.of(samples.sl, samples.image_size)
                folder.write_start(config, plan.as_dict(), task.model_dump(mode="json"))
            trackers.start(run_info(config, plan, trainer, samples))
        for note in (*trainer.checkpoints.warnings, *(() if resumed else plan.notes)):
            trackers.message(note)
        setup_s = time.perf_counter() - began
        with watched(config, world, store, signals), error_kept(trainer, folder.error):
            trainer.asked_to_stop = lambda: signals.asked
            train(trainer, trackers)
        if world.is_main:
            result = make_result(trainer, samples, setup_s, time.perf_counter() - began)
            write_json(folder.result, result)
    except StoppedError as stop:
        if world.is_main:
            folder.write_stopped(trainer.progress.step, str(stop))
        raise
    finally:
        trackers.finish(result)
    return 0


def train(trainer: Trainer, trackers: Trackers) -> None:
    """Train to the end of the plan; warn once where a save takes about as long as torchrun waits after a signal."""
    slow = False
    for record in trainer.records():
        trackers.log(record)
        took = trainer.checkpoints.slowest_s
        if took > SAVE_BUDGET_S and not slow:
            slow = True
            trackers.message(
                f"a checkpoint took {took:.0f} s to write: torchrun kills ranks 30 s after it has handed on a signal, "
                f"unless it is started with a longer --shutdown_timeout (docs/reliability.md)"
            )


@contextmanager
def watched(config: Config, world: World, store: Store | None, signals: Signals) -> Iterator[None]:
    """Guard the training loop: signals wait for a step border, a hang is noticed, and a failure told at once."""
    hang = RunFolder(config.run.dir).hang
    with (
        failures_told(world, store),
        full_disk_said(config),
        signals.deferred(),
        Watchdog(world, store, hang, config.run.hang_timeout_s),
    ):
        yield


@contextmanager
def full_disk_said(config: Config) -> Iterator[None]:
    """Turn the error of any file that finds no room into one for the user.

    Raises:
        UserError: it has happened.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise UserError(
            f"{error.filename or f'a file of run.dir {config.run.dir}'} cannot be written ({error.strerror}); make "
            f"room, then the same command goes on from the newest checkpoint"
        ) from error


def run_identity(config: Config, samples: Samples) -> dict[str, str]:
    """Return what makes this run this run: its settings, and the content of its packed sets."""
    beside = {f"data.tasks.{task.name}": task.packed.fingerprint for task in samples.tasks}
    return identity(config, {"data.sl": samples.sl.fingerprint, "data.ssl": samples.ssl.fingerprint, **beside})


def check_same_run(config: Config, samples: Samples, world: World) -> None:
    """Refuse a rank with other settings or data than rank 0: their steps would differ, and each wait for the other.

    Raises:
        UserError: on the ranks that differ.
    """
    own = run_identity(config, samples)
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
    feed = open_feed(config, samples, world, folder.quarantine if world.is_main else None, fitted)
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
        first_step=trainer.progress.step,
        run_name=config.run.dir.name,
        group=config.tracking.group or config.run.dir.resolve().parent.name,
        arm=config.method.arm,
        title=title,
        world_size=world.size,
        tags=(config.method.arm, config.model.backbone, samples.sl.folder.name, *config.tracking.tags),
        facts=facts(trainer, samples) if world.is_main else {},
        carried=trainer.tracked,
    )


if __name__ == "__main__":
    sys.exit(main())
