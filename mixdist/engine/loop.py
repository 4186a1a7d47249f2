"""The loop: phases -> epochs -> updates, yielding a StepRecord whenever one is due. One engine for all arms.

What a consumer does with a record cannot change a weight. A record is yielded before the checkpoint of its step is
saved, so that a run killed in between repeats the epoch instead of losing its line.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from mixdist.config.schema import Config
from mixdist.data.open import Feed
from mixdist.engine.checkpoint import Checkpoints
from mixdist.engine.evaluate import evaluate
from mixdist.engine.optim import Optimiser, State, make_optimiser
from mixdist.engine.precision import Precision
from mixdist.engine.progress import Progress
from mixdist.engine.record import StepRecord
from mixdist.engine.strategy import average_buffers, make_strategy, trained_parameters
from mixdist.engine.update import Updater
from mixdist.engine.window import Measured, Window, peak_memory_mb
from mixdist.errors import UserError
from mixdist.model.groups import parameter_groups
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
    progress: Progress = field(default_factory=Progress)
    moments: State = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.groups = parameter_groups(self.model)
        self.scaler = self.precision.scaler()

    def resume(self) -> bool:
        """Take up the checkpoint that rank 0 finds newest; return whether there was one."""
        path = self.world.from_main(self.checkpoints.newest())
        if path is None:
            return False
        parts = self.checkpoints.load(path)
        self.model.load_state_dict(parts["model"])
        self.scaler.load_state_dict(parts["scaler"])
        self.moments = parts["moments"]
        self.progress = Progress.from_state_dict(parts["progress"])
        self.feed.bad.load_state_dict(parts["bad"])
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

    def _run_phase(self, phase: Phase) -> Iterator[StepRecord]:
        window = Window(self.world)  # wrapping and building the optimiser are part of a phase's cost
        update = self.updater(phase)
        done = self.progress.step - phase.first_step
        if done > 0 or phase.carry:
            update.optimiser.load(self.moments)
        self.model.train()
        for epoch in range(done // phase.steps_per_epoch, phase.epochs):
            yield from self._run_epoch(phase, epoch, update, window)
            window = Window(self.world)

    def updater(self, phase: Phase) -> Updater:
        """Make exactly the phase's parameters trainable, and build what drives them, with fresh moments."""
        trained_parameters(self.model, [name for group in phase.drives for name in self.groups[group]])
        return Updater(
            strategy=make_strategy(self.model, self.world),
            optimiser=make_optimiser(phase, self.model, self.groups),
            scaler=self.scaler,
            precision=self.precision,
            prepare=self.feed.train[phase.name].prepare,
            noise_width=self.model.reconstructor.noise_width if "reconstruct" in phase.drives else 0,
            clip_grad=self.config.optim.clip_grad,
            world=self.world,
        )

    def _run_epoch(self, phase: Phase, epoch: int, update: Updater, window: Window) -> Iterator[StepRecord]:
        """Train one 0-based epoch of a phase, from wherever the run stands in it."""
        first = self.progress.step - phase.first_step - epoch * phase.steps_per_epoch
        stream = self.feed.train[phase.name].epoch(phase.first_epoch + epoch, phase.steps_per_epoch, first)
        for step in range(first, phase.steps_per_epoch):
            asked = time.perf_counter()
            batches = next(stream)
            window.waited(time.perf_counter() - asked)
            last = step + 1 == phase.steps_per_epoch
            due = last or (self.progress.step + 1) % self.config.train.log_every == 0
            sums = update(batches, epoch * phase.steps_per_epoch + step, record=due)
            window.add(sums, min(phase.batch, phase.samples - step * phase.batch))
            self.progress.step += 1
            if not due:
                continue
            measured = window.close(skipping=self.scaler.is_enabled())
            self.progress.add(phase.name, measured.steps, measured.images, measured.seconds)
            accuracy, top5 = self._evaluate(phase, epoch) if last else (None, None)
            self.feed.bad.agree(self.world)
            yield self._record(phase, epoch, update.optimiser, measured, accuracy, top5)
            window = Window(self.world)
        self._end_epoch(phase, epoch, update.optimiser)

    def _record(
        self,
        phase: Phase,
        epoch: int,
        optimiser: Optimiser,
        measured: Measured,
        accuracy: float | None,
        top5: float | None,
    ) -> StepRecord:
        alpha = phase.alpha.at(self.progress.step - phase.first_step - 1, phase.steps)
        return StepRecord(
            step=self.progress.step,
            phase=phase.name,
            epoch=phase.first_epoch + epoch + 1,
            phase_epoch=epoch + 1,
            samples=self.progress.samples,
            loss=alpha * (measured.loss_ssl or 0.0) + (1 - alpha) * (measured.loss_sl or 0.0),
            loss_ssl=measured.loss_ssl,
            loss_sl=measured.loss_sl,
            lr=phase.drives["backbone"].lr(self.progress.step - phase.first_step - 1),
            lr_reconstruct=optimiser.rate("reconstruct"),
            lr_classify=optimiser.rate("classify"),
            alpha=alpha,
            grad_norm=measured.grad_norm,
            images_per_s=measured.images / measured.seconds,
            data_wait=measured.data_wait,
            memory_mb=peak_memory_mb(self.world.device),
            latency_s=self.progress.latency_s,
            accuracy=accuracy,
            top5=top5,
            bad_samples=len(self.feed.bad.found),
        )

    def _evaluate(self, phase: Phase, epoch: int) -> tuple[float | None, float | None]:
        """Evaluate where it is due: every `eval_every` epochs of a phase that trains C, and at the run's end."""
        ends = self.progress.step == self.plan.steps
        if "classify" not in phase.drives or self.feed.test is None:
            return None, None
        if not ends and (epoch + 1) % self.config.train.eval_every:
            return None, None
        start = time.perf_counter()
        score = evaluate(self.model, self.feed.test, self.precision)
        self.progress.evaluation_s += time.perf_counter() - start
        self.progress.accuracy, self.progress.top5 = score.accuracy, score.top5_accuracy
        return score.accuracy, score.top5_accuracy

    def _end_epoch(self, phase: Phase, epoch: int, optimiser: Optimiser) -> None:
        """Save a checkpoint; at the end of the last phase that reconstructs, let its pictures be taken."""
        start = time.perf_counter()
        average_buffers(self.model, self.world)
        self.moments = optimiser.state()
        reconstructing = [each.name for each in self.plan.phases if "reconstruct" in each.drives]
        with self.world.together():
            if epoch + 1 == phase.epochs and phase.name in reconstructing[-1:]:
                self.reconstructed(self.model)
            if self.world.is_main:
                self.checkpoints.save(self.progress.step, self._parts())
        self.progress.checkpoint_s += time.perf_counter() - start

    def _parts(self) -> dict[str, Any]:
        """Return all that a resume needs, by the names that `resume` takes it up by."""
        return {
            "model": self.model.state_dict(),
            "moments": self.moments,
            "scaler": self.scaler.state_dict(),
            "progress": self.progress.state_dict(),
            "bad": self.feed.bad.state_dict(),
        }
