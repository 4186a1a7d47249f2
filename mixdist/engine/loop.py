"""The loop: phases -> epochs -> updates, yielding a StepRecord whenever one is due. One engine for all arms.

What a consumer does with a record cannot change a weight. A record is yielded before the checkpoint of its step is
saved, so that a run killed in between repeats the epoch instead of losing its line.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from mixdist.config.schema import Config
from mixdist.data.batch import Batch
from mixdist.data.open import Feed
from mixdist.engine import heartbeat
from mixdist.engine.batchnorm import count_rows
from mixdist.engine.checkpoint import Checkpoints, Due
from mixdist.engine.ema import Ema
from mixdist.engine.evaluate import Score, evaluate
from mixdist.engine.guard import Guard
from mixdist.engine.optim import State, make_optimiser
from mixdist.engine.precision import Precision
from mixdist.engine.progress import Progress
from mixdist.engine.record import StepRecord
from mixdist.engine.recording import make_record
from mixdist.engine.strategy import make_strategy, trained_parameters
from mixdist.engine.update import Updater
from mixdist.engine.verdicts import Verdicts
from mixdist.engine.window import Window
from mixdist.errors import StoppedError, UserError
from mixdist.model.groups import parameter_groups, without_decay
from mixdist.model.mixmodel import MixModel
from mixdist.plan import Phase, Plan
from mixdist.world import World


@dataclass
class Trainer:
    """A run in memory: what is fixed, and the state that moves."""

    config: Config
    plan: Plan
    model: MixModel  #: on the world's device
    feed: Feed
    world: World
    precision: Precision
    checkpoints: Checkpoints
    reconstructed: Callable[[MixModel], None]  #: called on every rank when R and B have last been trained together
    not_finite: Path  #: file for what is known of a batch whose gradient is not finite, where the run ends by it
    progress: Progress = field(default_factory=Progress)
    moments: State = field(default_factory=dict)

    asked_to_stop: Callable[[], int] = lambda: 0  #: the signal that asked this rank to stop, 0 for none

    def __post_init__(self) -> None:
        self.groups = parameter_groups(self.model)
        self.rows = count_rows(self.model, self.world, self.config.train.sync_batchnorm)
        self.undecayed = without_decay(self.model) if self.config.optim.no_decay_norm_bias else frozenset()
        decay = self.config.train.ema_decay
        self.ema = Ema(self.model, decay, self.world) if decay else None
        self.scaler = self.precision.scaler()
        self.verdicts = Verdicts(self.world.device)
        run = self.config.run
        self.due = Due(run.save_every_epochs, run.save_every_steps, run.save_every_minutes)

    def resume(self) -> bool:
        """Take up the checkpoint that rank 0 finds newest; return whether there was one."""
        with self.world.together():
            path = self.checkpoints.newest() if self.world.is_main else None
        path = self.world.from_main(path)
        if path is None:
            return False
        parts = self.checkpoints.load(path)
        self.model.load_state_dict(parts["model"])
        self.scaler.load_state_dict(parts["scaler"])
        self.moments = parts["moments"]
        self.progress = Progress.from_state_dict(parts["progress"])
        self.feed.bad.load_state_dict(parts["bad"])
        if self.ema:
            self.ema.load_state_dict(parts["ema"], self.progress.step - self.progress.skipped)
        if self.progress.step != (main := self.world.from_main(self.progress.step)):
            raise UserError(
                f"{path} holds step {self.progress.step}, on rank 0 step {main}; put run.dir on a shared disk"
            )
        return True

    def records(self) -> Iterator[StepRecord]:
        """Train what is left of the plan."""
        for phase in self.plan.phases:
            if self.progress.step < phase.first_step + phase.steps:
                yield from self._run_phase(phase)
        self._wait()

    def _run_phase(self, phase: Phase) -> Iterator[StepRecord]:
        window = Window(self.world)  # wrapping and building the optimiser are part of a phase's cost
        update = self.updater(phase)
        done = self.progress.step - phase.first_step
        if done > 0 or phase.carry:
            update.strategy.load_moments(self.moments)
        guard = self._guard(phase)
        self.model.train()
        with closing(update.strategy):
            for epoch in range(done // phase.steps_per_epoch, phase.epochs):
                yield from self._run_epoch(epoch, update, guard, window)
                window = Window(self.world)

    def updater(self, phase: Phase) -> Updater:
        """Make exactly the phase's parameters trainable, and build what drives them, with fresh moments."""
        trained_parameters(self.model, [name for group in phase.drives for name in self.groups[group]])
        optimiser = make_optimiser(phase, self.model, self.groups, self.undecayed)
        return Updater(
            phase=phase,
            strategy=make_strategy(self.model, optimiser, self.scaler, self.config.optim.clip_grad, self.world),
            precision=self.precision,
            prepare=self.feed.train[phase.name].prepare,
            noise_width=self.model.reconstructor.noise_width if "reconstruct" in phase.drives else 0,
            rows=self.rows,
            world=self.world,
            scalar=(torch.zeros((), device=self.world.device), torch.ones((), device=self.world.device)),
        )

    def _guard(self, phase: Phase) -> Guard:
        return Guard(
            phase=phase,
            progress=self.progress,
            buffers=[buffer for buffer in self.model.buffers() if buffer.is_floating_point()],
            limit=self.config.train.max_skipped,
            describe=self.feed.train[phase.name].describe,
            report=self.not_finite,
            world=self.world,
        )

    def _run_epoch(self, epoch: int, update: Updater, guard: Guard, window: Window) -> Iterator[StepRecord]:
        """Train one 0-based epoch of a phase, from wherever the run stands in it."""
        phase = update.phase
        first = self.progress.step - phase.first_step - epoch * phase.steps_per_epoch
        stream = self.feed.train[phase.name].epoch(phase.first_epoch + epoch, phase.steps_per_epoch, first)
        with closing(stream):
            for step in range(first, phase.steps_per_epoch):
                heartbeat.begin(self.progress.step, phase.name, step == first)
                asked = time.perf_counter()
                batches = next(stream)
                window.waited(time.perf_counter() - asked)
                self._step(batches, epoch * phase.steps_per_epoch + step, update, guard, window)
                ends_epoch = step + 1 == phase.steps_per_epoch
                stop, save = self._border(epoch, ends_epoch, guard)
                # A record stands at each checkpoint, so that a resume finds no window half full.
                if save or ends_epoch or self.progress.step % self.config.train.log_every == 0:
                    record = self._close(window, epoch, update, ends_epoch)
                    yield record
                    if save:
                        self._save(update, ends_epoch and epoch + 1 == phase.epochs, record.accuracy)
                    if stop and self.progress.step < self.plan.steps:
                        self._stop()
                    window = Window(self.world)

    def _step(self, batches: list[Batch], step: int, update: Updater, guard: Guard, window: Window) -> None:
        """Make the update of 0-based ``step`` of the phase."""
        phase = update.phase
        guard.before()
        votes = (self.asked_to_stop() != 0, self.world.is_main and self.due.by_clock())
        updated = update(batches, step, self.progress.of(phase.name).skipped, votes)
        if self.ema:
            self.ema.update(updated.stepped.applied)
        self.progress.step += 1
        guard.after(self.progress.step, batches, updated)
        self.verdicts.post(self.progress.step, updated)
        in_epoch = step % phase.steps_per_epoch
        window.add(updated, min(phase.batch, phase.samples - in_epoch * phase.batch))

    def _border(self, epoch: int, ends_epoch: bool, guard: Guard) -> tuple[bool, bool]:
        """Act on what is known of the steps up to here, the same on all ranks; return whether to stop, and to save."""
        step, phase = self.progress.step, guard.phase
        save = self.due.at_step(step)
        if ends_epoch:
            save |= epoch + 1 == phase.epochs or self.due.at_epoch_end(phase.first_epoch + epoch + 1)
        verdicts = self.verdicts.take(all_posted=save or ends_epoch or step % self.config.train.log_every == 0)
        if any(verdict.stop or verdict.save for verdict in verdicts):
            verdicts += self.verdicts.take(all_posted=True)
        for verdict in verdicts:
            guard.judge(verdict)
        stop = any(verdict.stop for verdict in verdicts)
        return stop, save or stop or any(verdict.save for verdict in verdicts)

    def _close(self, window: Window, epoch: int, update: Updater, last: bool) -> StepRecord:
        measured = window.close()
        self.progress.add(update.phase.name, measured.steps, measured.images, measured.seconds)
        score = self._evaluate(update, epoch) if last else None
        self.feed.bad.agree(self.world)
        return make_record(update, epoch, measured, self.progress, len(self.feed.bad.found), score)

    def _evaluate(self, update: Updater, epoch: int) -> Score | None:
        """Evaluate where it is due: every `eval_every` epochs of a phase that trains C, and at the run's end."""
        ends = self.progress.step == self.plan.steps
        if "classify" not in update.phase.drives or self.feed.test is None:
            return None
        if not ends and (epoch + 1) % self.config.train.eval_every:
            return None
        start = time.perf_counter()
        self._publish(update)
        with self._judged():
            score = evaluate(self.model, self.feed.test, self.precision)
        self.progress.evaluation_s += time.perf_counter() - start
        self.progress.accuracy, self.progress.top5 = score.accuracy, score.top5_accuracy
        return score

    def _publish(self, update: Updater) -> None:
        """Bring the model and its averages up to date; all ranks call it together."""
        update.strategy.publish()
        if self.ema:
            self.ema.publish()

    def _judged(self) -> AbstractContextManager[None]:
        """Let the model have the weights that the run is judged by."""
        return self.ema.in_place() if self.ema else nullcontext()

    def _save(self, update: Updater, ends_phase: bool, accuracy: float | None) -> None:
        """Save a checkpoint; at the end of the last phase that reconstructs, let its pictures be taken."""
        start = time.perf_counter()
        heartbeat.beat("ckpt")
        self._publish(update)
        self.moments = update.strategy.moments()
        reconstructing = [each.name for each in self.plan.phases if "reconstruct" in each.drives]
        with self.world.together():
            if ends_phase and update.phase.name in reconstructing[-1:]:
                with self._judged():
                    self.reconstructed(self.model)
            if self.world.is_main:
                self.checkpoints.save(self.progress.step, self._parts(), accuracy)
            heartbeat.beat("ckpt")  # a rank that has done its part is ahead of the one that writes
        self.due.saved()
        self.progress.checkpoint_s += time.perf_counter() - start

    def _wait(self) -> None:
        """Wait until rank 0's last checkpoint is on the disk."""
        heartbeat.beat("ckpt")
        with self.world.together():
            self.checkpoints.wait()
            heartbeat.beat("ckpt")

    def _stop(self) -> None:
        self._wait()
        asked = {
            rank: signal.Signals(number).name
            for rank, number in enumerate(self.world.gather(self.asked_to_stop()))
            if number
        }
        who = ", ".join(f"{name} on rank {rank}" for rank, name in asked.items())
        raise StoppedError(
            f"stopped by {who} at step {self.progress.step} of {self.plan.steps}, which is saved; the same command "
            f"goes on there"
        ).everywhere()

    def _parts(self) -> dict[str, Any]:
        """Return all that a resume needs, by the names that `resume` takes it up by."""
        return {
            "model": self.model.state_dict(),
            "moments": self.moments,
            "scaler": self.scaler.state_dict(),
            "progress": self.progress.state_dict(),
            "bad": self.feed.bad.state_dict(),
            **({"ema": self.ema.state_dict()} if self.ema else {}),
        }
