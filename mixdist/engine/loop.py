"""The loop: phases -> epochs -> updates, yielding a StepRecord whenever one is due. One engine for all arms.

What a consumer does with a record cannot change a weight. A record is yielded before the checkpoint of its step is
saved, so that a run killed in between repeats the epoch instead of losing its line; but see epoch_end.py.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial

import torch

from mixdist.data.batch import Batch
from mixdist.engine import heartbeat
from mixdist.engine.alignment import Alignment, last_layer
from mixdist.engine.epoch_end import EpochEnds
from mixdist.engine.guard import Guard, UnderWay, names
from mixdist.engine.optim import make_optimiser
from mixdist.engine.record import StepRecord
from mixdist.engine.recording import make_record
from mixdist.engine.strategies import make_strategy
from mixdist.engine.strategy import Spread, Strategy, trained_parameters
from mixdist.engine.update import Updater
from mixdist.engine.verdicts import Verdicts
from mixdist.engine.window import Window
from mixdist.model.groups import without_decay
from mixdist.plan import Phase


class Trainer(EpochEnds):
    """Drives a run to the end of its plan."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.undecayed = without_decay(self.model) if self.config.optim.no_decay_norm_bias else frozenset()
        self.verdicts = Verdicts(self.world.device)
        self.alignment = self._make_alignment() if self.config.train.align_every else None
        self.under_way: Callable[[], list[str]] = list  #: names the samples of the last step that began

    def records(self) -> Iterator[StepRecord]:
        """Train what is left of the plan."""
        for phase in self.plan.phases:
            if self.recorded < phase.first_step + phase.steps:
                yield from self._run_phase(phase)
        self.wait()

    def _run_phase(self, phase: Phase) -> Iterator[StepRecord]:
        window = self._window(phase)  # wrapping and building the optimiser are part of a phase's cost
        update = self.updater(phase)
        done = self.progress.step - phase.first_step
        if done > 0 or phase.carry:
            update.strategy.load_moments(self.moments)
        if done < phase.steps:  # else a resume at the phase's end, which carries them into the next
            self.moments = {}  # now held twice
        guard = self._guard(phase, update.strategy)
        self.model.train()
        with closing(update.strategy):
            if self.pending:
                heartbeat.begin(self.progress.step - 1, phase.name, first=True)
                yield from self.settle(self.pending, done // phase.steps_per_epoch - 1, update, saved=True)
                window = self._window(phase)
            for epoch in range(done // phase.steps_per_epoch, phase.epochs):
                yield from self._run_epoch(epoch, update, guard, window)
                window = self._window(phase)

    def _window(self, phase: Phase) -> Window:
        return Window(self.world, self.feed.train[phase.name])

    def updater(self, phase: Phase) -> Updater:
        """Make exactly the phase's parameters trainable, and build what drives them, with fresh moments."""
        trained_parameters(self.model, [name for group in phase.drives for name in self.groups[group]])
        stream = self.feed.train[phase.name]
        spread = Spread(
            model=self.model,
            optimiser=partial(make_optimiser, phase, groups=self.groups, undecayed=self.undecayed),
            scaler=self.scaler,
            precision=self.precision,
            clip_grad=self.config.optim.clip_grad,
            batch=phase.batch,
            micro_batch=stream.micro_batch,
            compile=self.config.train.compile,
            world=self.world,
        )
        return Updater(
            phase=phase,
            strategy=make_strategy(self.config.parallel, spread),
            precision=self.precision,
            prepare=stream.prepare,
            noise_width=self.model.reconstructor.noise_width if "reconstruct" in phase.drives else 0,
            mask_input=phase.name == "ssl" and self.config.method.ssl_masking == "input",
            rows=self.rows,
            world=self.world,
            zero=torch.zeros((), device=self.world.device),
        )

    def _guard(self, phase: Phase, strategy: Strategy) -> Guard:
        return Guard(
            phase=phase,
            progress=self.progress,
            buffers=[buffer for buffer in strategy.module.buffers() if buffer.is_floating_point()],
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
                    record = self._close(window, epoch, update)
                    if ends_epoch:
                        yield from self.settle(record, epoch, update, save, stop)
                    else:
                        yield record
                        if save:
                            self.save(phase, update.strategy, ends_phase=False)
                        if stop:
                            self.stop()
                    window = self._window(phase)

    def _step(self, batches: list[Batch], step: int, update: Updater, guard: Guard, window: Window) -> None:
        """Make the update of 0-based ``step`` of the phase."""
        phase = update.phase
        samples: UnderWay = [(batch.ids, batch.weight) for batch in batches]
        self.under_way = partial(names, samples, guard.describe)
        guard.before()
        if self.alignment and self._aligns(phase):
            with window.left_out():
                window.align(self.alignment(update, batches, step))
        votes = (self.asked_to_stop() != 0, self.world.is_main and self.due.by_clock())
        updated = update(batches, step, self.progress.of(phase.name).skipped, votes)
        if self.ema:
            update.strategy.mirror()
            self.ema.update(updated.stepped.applied)
        self.progress.step += 1
        guard.after(self.progress.step, samples, updated)
        self.verdicts.post(self.progress.step, updated)
        in_epoch = step % phase.steps_per_epoch
        window.add(updated, min(phase.batch, phase.samples - in_epoch * phase.batch))

    def _make_alignment(self) -> Alignment:
        layer = last_layer(self.model, self.groups["backbone"])
        return Alignment(self.model, layer, self.rows, self.scaler, self.config.method.loss_ratio)

    def _aligns(self, phase: Phase) -> bool:
        """Say whether to measure cosines at the coming step: only where both heads are, or have been, trained."""
        due = (self.progress.step + 1) % (self.config.train.align_every or 1) == 0
        both = "classify" in phase.drives and any("reconstruct" in each.drives for each in self.plan.phases)
        return due and both

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

    def _close(self, window: Window, epoch: int, update: Updater) -> StepRecord:
        measured = window.close()
        self.progress.add(update.phase.name, measured.steps, measured.images, measured.seconds)
        self.progress.evaluation_s += measured.left_out_s
        self.feed.bad.agree(self.world)
        scale = self.scaler.get_scale() if self.scaler.is_enabled() else None
        return make_record(update, epoch, measured, self.progress, len(self.feed.bad.found), scale)
