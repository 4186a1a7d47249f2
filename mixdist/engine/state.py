"""A run in memory: what is fixed, the state that moves, and how that is judged, saved and taken up again."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mixdist.config.schema import Config
from mixdist.data.open import Feed
from mixdist.engine import heartbeat
from mixdist.engine.batchnorm import count_rows
from mixdist.engine.checkpoint import Checkpoints, Due
from mixdist.engine.ema import Ema
from mixdist.engine.evaluate import Score, evaluate
from mixdist.engine.optim import State
from mixdist.engine.precision import Precision
from mixdist.engine.prober import Prober
from mixdist.engine.probes import Findings
from mixdist.engine.progress import Progress
from mixdist.engine.strategy import Strategy
from mixdist.errors import UserError
from mixdist.model.groups import parameter_groups
from mixdist.model.mixmodel import MixModel
from mixdist.plan import Phase, Plan
from mixdist.world import World


@dataclass
class Run:
    """One run on one rank."""

    config: Config
    plan: Plan
    model: MixModel  #: on the world's device
    feed: Feed
    world: World
    precision: Precision
    checkpoints: Checkpoints
    #: Called on every rank when R and B have last been trained together; with the number of a 1-based epoch where a
    #: picture of it is due. Returns the picture's name in the run folder.
    reconstructed: Callable[[MixModel, int | None], str]
    confused: Callable[[list[list[int]]], None]  #: called on rank 0 with the confusion matrix of the last evaluation
    not_finite: Path  #: file for what is known of a batch whose gradient is not finite, where the run ends by it
    progress: Progress = field(default_factory=Progress)
    moments: State = field(default_factory=dict)
    tracked: dict[str, str] = field(default_factory=dict)  #: what trackers want back on a resume; rank 0's counts

    asked_to_stop: Callable[[], int] = lambda: 0  #: the signal that asked this rank to stop, 0 for none

    def __post_init__(self) -> None:
        self.groups = parameter_groups(self.model)
        self.rows = count_rows(self.model, self.world, self.config.train.sync_batchnorm)
        decay = self.config.train.ema_decay
        self.ema = Ema(self.model, decay, self.world) if decay else None
        self.prober = Prober(self.model, *self.feed.probe, self.precision) if self.feed.probe else None
        self.scaler = self.precision.scaler()
        run = self.config.run
        self.due = Due(run.save_every_epochs, run.save_every_steps, run.save_every_minutes)

    def resume(self) -> bool:
        """Take up the checkpoint that rank 0 finds newest; return whether there was one."""
        with self.world.together():
            path = self.checkpoints.newest() if self.world.is_main else None
        path = self.world.from_main(path)
        if path is None:
            return False
        with self.world.together():  # a node may have no such checkpoint, or another one of that name
            parts = self._read(path)
        self.model.load_state_dict(parts["model"])
        self.scaler.load_state_dict(parts["scaler"])
        self.moments = parts["moments"]
        self.progress = Progress.from_state_dict(parts["progress"])
        self.feed.bad.load_state_dict(parts["bad"])
        self.tracked = dict(parts.get("trackers", {}))  # earlier checkpoints have none
        if self.ema:
            self.ema.load_state_dict(parts["ema"], self.progress.step - self.progress.skipped)
        main = self.world.from_main(self.progress.step)
        if self.progress.step != main:
            raise UserError(
                f"{path} holds step {self.progress.step}, on rank 0 step {main}; put run.dir on a shared disk"
            )
        return True

    def _read(self, path: Path) -> dict[str, Any]:
        """Read a checkpoint of this run.

        Raises:
            UserError: see `Checkpoints.load`; or it follows another plan.
        """
        parts = self.checkpoints.load(path)
        if parts["plan"] != self.plan.hash:
            raise UserError(
                f"{path} follows the plan {parts['plan']}, this one is {self.plan.hash}: the same settings, planned by "
                f"another mixdist; use that one, or train afresh in another run.dir"
            )
        return parts

    def evaluate(self, phase: Phase, epoch: int, strategy: Strategy) -> Score | None:
        """Evaluate where it is due: every `eval_every` epochs of a phase that trains C, and at the run's end."""
        ends = self.progress.step == self.plan.steps
        if "classify" not in phase.drives or self.feed.test is None:
            return None
        if not ends and (epoch + 1) % self.config.train.eval_every:
            return None
        start = time.perf_counter()
        self._publish(strategy)
        with self._judged():
            score = evaluate(self.model, self.feed.test, self.precision, ends)
            beside = {name: evaluate(self.model, test, self.precision) for name, test in self.feed.tasks.items()}
        if score.confusion is not None:
            with self.world.together():
                if self.world.is_main:
                    self.confused(score.confusion)
        self.progress.evaluation_s += time.perf_counter() - start
        self.progress.accuracy, self.progress.top5 = score.accuracy, score.top5_accuracy
        self.progress.tasks = {name: own.accuracy for name, own in beside.items()}
        return score

    def picture(self, phase: Phase, epoch: int, strategy: Strategy) -> str | None:
        """Have the fixed images reconstructed where that is due after 0-based ``epoch`` of a phase that trains R."""
        every, number = self.config.tracking.reconstruct_every, phase.first_epoch + epoch + 1
        if every is None or number % every or "reconstruct" not in phase.drives:
            return None
        start = time.perf_counter()
        heartbeat.beat("eval")
        self._publish(strategy)
        with self.world.together(), self._judged():
            name = self.reconstructed(self.model, number)
        self.progress.evaluation_s += time.perf_counter() - start
        return name

    def probe(self, phase: Phase, epoch: int, strategy: Strategy) -> Findings | None:
        """Probe frozen features where it is due: every `probe_every` epochs of a phase that trains R and at its end."""
        if self.prober is None or "reconstruct" not in phase.drives:
            return None
        if epoch + 1 < phase.epochs and (epoch + 1) % (self.config.train.probe_every or 1):
            return None
        start = time.perf_counter()
        findings = self.prober(strategy)
        self.progress.evaluation_s += time.perf_counter() - start
        return findings

    def save(self, phase: Phase, strategy: Strategy, ends_phase: bool, accuracy: float | None) -> None:
        """Save a checkpoint; at the end of the last phase that reconstructs, let its pictures be taken."""
        start = time.perf_counter()
        heartbeat.beat("ckpt")
        self._publish(strategy)
        self.moments = strategy.moments()
        reconstructing = [each.name for each in self.plan.phases if "reconstruct" in each.drives]
        with self.world.together():
            if ends_phase and phase.name in reconstructing[-1:]:
                with self._judged():
                    self.reconstructed(self.model, None)
            if self.world.is_main:
                self.checkpoints.save(self.progress.step, self._parts(), accuracy)
            heartbeat.beat("ckpt")  # a rank that has done its part is ahead of the one that writes
        self.due.saved()
        self.progress.checkpoint_s += time.perf_counter() - start

    def wait(self) -> None:
        """Wait until rank 0's last checkpoint is on the disk."""
        heartbeat.beat("ckpt")
        with self.world.together():
            self.checkpoints.wait()
            heartbeat.beat("ckpt")

    def _publish(self, strategy: Strategy) -> None:
        """Bring the model and its averages up to date; all ranks call it together."""
        strategy.publish()
        if self.ema:
            self.ema.publish()

    def _judged(self) -> AbstractContextManager[None]:
        """Let the model have the weights that the run is judged by."""
        return self.ema.in_place() if self.ema else nullcontext()

    def _parts(self) -> dict[str, Any]:
        """Return all that a resume needs, by the names that `resume` takes it up by."""
        return {
            "model": self.model.state_dict(),
            "moments": self.moments,
            "scaler": self.scaler.state_dict(),
            "plan": self.plan.hash,
            "progress": self.progress.state_dict(),
            "bad": self.feed.bad.state_dict(),
            "trackers": self.tracked,
            **({"ema": self.ema.state_dict()} if self.ema else {}),
        }
