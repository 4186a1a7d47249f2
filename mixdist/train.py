"""Entry of `torchrun -m mixdist.train`: read, plan, build the rooms, run, close. It and assembly.py know every room."""

from __future__ import annotations

import errno
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager

from mixdist.imports import uncollected

with uncollected():
    from torch._C._distributed_c10d import Store
    from torch.distributed.elastic.multiprocessing import errors

    from mixdist.assembly import build_trainer, check_same_run, run_info
    from mixdist.config.read import read_config
    from mixdist.config.schema import Config
    from mixdist.data.samples import find_samples
    from mixdist.data.task import Task
    from mixdist.engine import heartbeat
    from mixdist.engine.error_report import error_kept
    from mixdist.engine.loop import Trainer
    from mixdist.engine.result import make_result
    from mixdist.engine.signals import Signals
    from mixdist.engine.strategies import check_strategy
    from mixdist.engine.watchdog import Watchdog
    from mixdist.errors import MixdistError, PeerError, StoppedError, UserError
    from mixdist.files import write_json
    from mixdist.launchers import is_restart, without_local_rank
    from mixdist.model.mixmodel import build_model
    from mixdist.plan import make_plan
    from mixdist.runfolder import RunFolder
    from mixdist.tracking import Trackers, main_trackers
    from mixdist.world import World, failures_told, leave_together, process_group, read_world, tell_launcher

NOT_FRESH = "restarted by the launcher: --run.resume fresh, which was for the first start, removes nothing now"
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
            config = _read(list(sys.argv[1:] if argv is None else argv))
            with process_group(world) as store:
                with world.together():
                    if isinstance(config, MixdistError):
                        raise config
                return run(config, world, store, signals)
    except MixdistError as error:
        return leave(error)
    except KeyboardInterrupt:
        sys.stderr.write("mixdist: interrupted\n" if _is_main() else "")
        return 130


def _read(argv: list[str]) -> Config | MixdistError:
    """Return what is asked, or why it cannot be read: for all ranks to say together.

    Before the ranks join, as that has a time limit: the watchdog cannot watch a file of its own settings being read.
    """
    try:
        return read_config(without_local_rank(argv, os.environ))
    except MixdistError as error:
        return error


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
    watchdog = held.enter_context(Watchdog(world, store, folder.hang, config.run.hang_timeout_s))
    again = any(world.gather(is_restart(os.environ))) and config.run.resume == "fresh"
    with set_up(world):
        samples = find_samples(config)
        plan = make_plan(config, samples.counts, world.size)
        check_strategy(config, world)
        model = build_model(config, samples.image_size, samples.counts.classes)
        if world.is_main:
            held.enter_context(folder.held())
            folder.open("auto" if again else config.run.resume)
    with set_up(world):
        check_same_run(config, samples, world)
    with set_up(world):
        trainer = build_trainer(config, samples, plan, model, folder, world)
    with set_up(world):
        resumed = trainer.resume()
    if world.from_main(folder.result.is_file()) and trainer.progress.step == plan.steps:
        if world.is_main:
            sys.stdout.write(f"{folder.path} is finished (result.json); --run.resume fresh trains it again\n")
        return 0
    trackers = main_trackers(config.tracking) if world.is_main else Trackers()
    result, stopped = None, False
    try:
        with set_up(world):
            if world.is_main:
                task = Task.of(samples.sl, samples.image_size)
                folder.write_start(config, plan.as_dict(), task.model_dump(mode="json"))
            trackers.start(run_info(config, plan, trainer, samples))
        restarted = (NOT_FRESH,) if again else ()
        for note in (*restarted, *trainer.checkpoints.warnings, *(() if resumed else plan.notes)):
            trackers.message(note)
        setup_s = time.perf_counter() - began
        with guarded(config, world, store, signals, watchdog), error_kept(trainer, folder.error):
            trainer.asked_to_stop = lambda: signals.asked
            train(trainer, trackers)
        if world.is_main:
            result = make_result(trainer, samples, setup_s, time.perf_counter() - began)
            write_json(folder.result, result)
    except StoppedError as stop:
        stopped = True
        if world.is_main:
            folder.write_stopped(trainer.progress.step, str(stop))
        raise
    finally:
        trackers.finish(result, stopped)
    return 0


def train(trainer: Trainer, trackers: Trackers) -> None:
    """Train to the end of the plan; warn once where a save takes about as long as torchrun waits after a signal."""
    slow = False
    for record in trainer.records():
        trackers.log(record)
        if failed := trainer.checkpoints.failure():
            trackers.message(failed)
        took = trainer.checkpoints.slowest_s
        if took > SAVE_BUDGET_S and not slow:
            slow = True
            trackers.message(
                f"a checkpoint took {took:.0f} s to write: torchrun kills ranks 30 s after it has handed on a signal, "
                f"unless it is started with a longer --shutdown_timeout (docs/reliability.md)"
            )


@contextmanager
def set_up(world: World) -> Iterator[None]:
    """Do a part of the set-up on all ranks; one that has done it is ahead of those that have not."""
    with world.together():
        yield
        heartbeat.beat("start")


@contextmanager
def guarded(config: Config, world: World, store: Store | None, signals: Signals, watchdog: Watchdog) -> Iterator[None]:
    """Guard the training loop: signals wait for a step border, a failure is told at once; the watch ends with it."""
    with failures_told(world, store), full_disk_said(config), signals.deferred(), closing(watchdog):
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


if __name__ == "__main__":
    sys.exit(main())
