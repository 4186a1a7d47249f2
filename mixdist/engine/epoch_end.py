"""The end of an epoch: the model judged where that is due, its record, its checkpoint, and stopping.

Judging may take long. What was trained is on its way to the disk before, with the record as far as it goes; a signal is
answered at the next batch; and a run that ends meanwhile, by a signal or without, judges again at its next start.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from typing import NoReturn

from mixdist.engine import heartbeat
from mixdist.engine.evaluate import Score, evaluate
from mixdist.engine.probes import Findings
from mixdist.engine.record import StepRecord
from mixdist.engine.recording import judged
from mixdist.engine.state import Run
from mixdist.engine.strategy import Strategy
from mixdist.engine.turns import LeftOff
from mixdist.engine.update import Updater
from mixdist.engine.window import peak_memory_mb
from mixdist.errors import StoppedError
from mixdist.plan import Phase


class EpochEnds(Run):
    """A run that can end an epoch."""

    def settle(
        self,
        record: StepRecord,
        epoch: int,
        update: Updater,
        save: bool = False,
        stop: bool = False,
        saved: bool = False,
    ) -> Iterator[StepRecord]:
        """End 0-based ``epoch``: judge the model where that is due, yield the record, save and stop where that is.

        Args:
            record: of its last step.
            epoch: of the phase.
            update: drives the phase.
            save: whether a checkpoint of this step is due.
            stop: whether to stop here.
            saved: whether there is one already, in which the record is pending.
        """
        phase, strategy = update.phase, update.strategy
        ends_phase = epoch + 1 == phase.epochs
        if self._judges(phase, epoch):
            self.pending = record
            if save:
                self.save(phase, strategy, ends_phase)
                saved = True
            if stop:
                self.stop()
        try:
            record = self._judge(record, epoch, update)
        except LeftOff:
            if not saved:
                self.save(phase, strategy, ends_phase)
            self.stop()
        self.pending = None
        yield record
        if saved:
            self.amend(record.accuracy)
        elif save:
            self.save(phase, strategy, ends_phase)
        if stop and self.progress.step < self.plan.steps:
            self.stop()

    def _judge(self, record: StepRecord, epoch: int, update: Updater) -> StepRecord:
        score = self.evaluate(update.phase, epoch, update.strategy)
        picture = self.picture(update.phase, epoch, update.strategy)
        findings = self.probe(update.phase, epoch, update.strategy)
        self.feed.bad.agree(self.world)
        bad, memory = len(self.feed.bad.found), peak_memory_mb(self.world.device)
        return judged(record, self.progress, bad, memory, score, picture, findings)

    def _judges(self, phase: Phase, epoch: int) -> bool:
        """Say whether anything that may take long is due at the end of 0-based ``epoch`` of a phase."""
        return self._evaluates(phase, epoch) or self._probes(phase, epoch)

    def _evaluates(self, phase: Phase, epoch: int) -> bool:
        """Say whether to evaluate: every `eval_every` epochs of a phase that trains C, and at the run's end."""
        due = self.progress.step == self.plan.steps or (epoch + 1) % self.config.train.eval_every == 0
        return due and "classify" in phase.drives and self.feed.test is not None

    def _probes(self, phase: Phase, epoch: int) -> bool:
        """Say whether to probe: every `probe_every` epochs of a phase that trains R, and at its end."""
        due = epoch + 1 == phase.epochs or (epoch + 1) % (self.config.train.probe_every or 1) == 0
        return due and "reconstruct" in phase.drives and self.prober is not None

    def evaluate(self, phase: Phase, epoch: int, strategy: Strategy) -> Score | None:
        """Evaluate where that is due.

        Raises:
            LeftOff: on all ranks, where one was asked to stop.
        """
        if self.feed.test is None or not self._evaluates(phase, epoch):
            return None
        ends = self.progress.step == self.plan.steps
        start = time.perf_counter()
        self._publish(strategy)
        with self._judged():
            score = evaluate(self.model, self.feed.test, self.precision, ends, self.asked_to_stop)
            beside = {
                name: evaluate(self.model, test, self.precision, asked=self.asked_to_stop)
                for name, test in self.feed.tasks.items()
            }
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
        """Probe frozen features where that is due.

        Raises:
            LeftOff: on all ranks, where one was asked to stop.
        """
        if self.prober is None or not self._probes(phase, epoch):
            return None
        start = time.perf_counter()
        findings = self.prober(strategy, self.asked_to_stop)
        self.progress.evaluation_s += time.perf_counter() - start
        return findings

    def stop(self) -> NoReturn:
        """Leave, on all ranks together, with a checkpoint of this step.

        Raises:
            StoppedError: always.
        """
        self.wait()
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
