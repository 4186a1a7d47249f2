"""A run in memory: what is fixed, the state that moves, and how that is saved and taken up again."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mixdist.config.schema import Config
from mixdist.data.open import Feed
from mixdist.engine import heartbeat
from mixdist.engine.batchnorm import count_rows
from mixdist.engine.checkpoint import Checkpoints, Due
from mixdist.engine.ema import Ema
from mixdist.engine.optim import State
from mixdist.engine.precision import Precision
from mixdist.engine.prober import Prober
from mixdist.engine.progress import Progress
from mixdist.engine.record import StepRecord
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
    pending: StepRecord | None = None  #: of the step that the run stands at, where the model is still to be judged
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

    @property
    def recorded(self) -> int:
        """Steps up to which records were yielded."""
        return self.progress.step - (self.pending is not None)

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
        record = parts.get("record")
        self.pending = StepRecord(**record) if record else None
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

    def save(self, phase: Phase, strategy: Strategy, ends_phase: bool) -> None:
        """Save a checkpoint; at the end of the last phase that reconstructs, let its pictures be taken."""
        start = time.perf_counter()
        heartbeat.beat("ckpt")
        self._publish(strategy)
        moments = strategy.moments()
        # For the next phase alone: they are whole on each rank, also where training holds them in shards.
        self.moments = moments if ends_phase else {}
        reconstructing = [each.name for each in self.plan.phases if "reconstruct" in each.drives]
        with self.world.together():
            if ends_phase and phase.name in reconstructing[-1:]:
                with self._judged():
                    self.reconstructed(self.model, None)
            if self.world.is_main:
                self.checkpoints.save(self.progress.step, self._parts(moments))
            heartbeat.beat("ckpt")  # a rank that has done its part is ahead of the one that writes
        self.due.saved()
        self.progress.checkpoint_s += time.perf_counter() - start

    def amend(self, accuracy: float | None) -> None:
        """Let the checkpoint of this step, which was saved before the model was judged, have what was found."""
        self.pending = None
        found = {"progress": self.progress.state_dict(), "bad": self.feed.bad.state_dict(), "record": None}
        if self.world.is_main:
            self.checkpoints.amend(self.progress.step, found, accuracy)

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

    def _parts(self, moments: State) -> dict[str, Any]:
        """Return all that a resume needs, by the names that `resume` takes it up by."""
        return {
            "model": self.model.state_dict(),
            "moments": moments,
            "scaler": self.scaler.state_dict(),
            "plan": self.plan.hash,
            "progress": self.progress.state_dict(),
            "bad": self.feed.bad.state_dict(),
            "trackers": self.tracked,
            **({"record": asdict(self.pending)} if self.pending else {}),
            **({"ema": self.ema.state_dict()} if self.ema else {}),
        }
