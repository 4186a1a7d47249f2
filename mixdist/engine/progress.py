"""Progress: how far a run is and what it cost so far; goes into every checkpoint, so that a resume adds up."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class PhaseCost:
    """Training cost of one phase so far."""

    steps: int = 0
    skipped: int = 0  #: of the steps, those whose update was left out, as the gradient was not finite
    images: int = 0
    latency_s: float = 0.0  #: evaluation, checkpoints and set-up not counted


@dataclass
class Progress:
    """The run's only mutable state besides weights, moments and the gradient scaler."""

    step: int = 0  #: steps done, over the whole run; with the plan, all that a resume needs to know
    skipped_in_a_row: int = 0  #: up to now
    phases: dict[str, PhaseCost] = field(default_factory=dict)
    evaluation_s: float = 0.0
    checkpoint_s: float = 0.0
    accuracy: float | None = None  #: of the newest evaluation, percent
    top5: float | None = None
    tasks: dict[str, float] = field(default_factory=dict)  #: likewise the accuracy of each of data.tasks, percent

    @property
    def samples(self) -> int:
        """Images trained on so far, over all ranks and phases."""
        return sum(cost.images for cost in self.phases.values())

    @property
    def latency_s(self) -> float:
        """Training seconds so far."""
        return sum(cost.latency_s for cost in self.phases.values())

    @property
    def skipped(self) -> int:
        """Updates left out so far."""
        return sum(cost.skipped for cost in self.phases.values())

    def of(self, phase: str) -> PhaseCost:
        """Return the cost of a phase so far."""
        return self.phases.setdefault(phase, PhaseCost())

    def skip(self, phase: str) -> None:
        """Count an update that was left out."""
        self.of(phase).skipped += 1
        self.skipped_in_a_row += 1

    def add(self, phase: str, steps: int, images: int, seconds: float) -> None:
        """Count work that is done."""
        cost = self.of(phase)
        cost.steps += steps
        cost.images += images
        cost.latency_s += seconds

    def state_dict(self) -> dict[str, Any]:
        """Return plain values for a checkpoint."""
        return asdict(self)

    @staticmethod
    def from_state_dict(state: dict[str, Any]) -> Progress:
        """Undo `state_dict`."""
        phases = {name: PhaseCost(**cost) for name, cost in state["phases"].items()}
        return Progress(**{**state, "phases": phases})
