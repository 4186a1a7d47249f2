"""From a closed window to the StepRecord that leaves the engine."""

from __future__ import annotations

import math
from dataclasses import replace

from mixdist.engine.evaluate import Score
from mixdist.engine.probes import Findings
from mixdist.engine.progress import Progress
from mixdist.engine.record import StepRecord
from mixdist.engine.update import Updater
from mixdist.engine.window import Measured, peak_memory_mb


def make_record(
    update: Updater,
    epoch: int,
    measured: Measured,
    progress: Progress,
    bad_samples: int,
    loss_scale: float | None,
) -> StepRecord:
    """Return the record of the step that ``progress`` stands at, in 0-based ``epoch`` of the updater's phase.

    It holds what training says of the step; `judged` adds what is found where the model is looked at besides.
    """
    phase, rates = update.phase, update.strategy.optimiser.rates()
    alpha = phase.alpha.at(progress.step - phase.first_step - 1, phase.steps)
    cosines = measured.cosines or (None, None, None)
    return StepRecord(
        step=progress.step,
        phase=phase.name,
        epoch=phase.first_epoch + epoch + 1,
        phase_epoch=epoch + 1,
        samples=progress.samples,
        loss=_joint(measured, alpha),
        loss_ssl=measured.loss_ssl,
        loss_sl=measured.loss_sl,
        lr=rates["backbone"],
        lr_reconstruct=rates.get("reconstruct"),
        lr_classify=rates.get("classify"),
        alpha=alpha,
        grad_norm=measured.grad_norm,
        images_per_s=measured.images / measured.seconds,
        data_wait=measured.data_wait,
        decode=measured.decode,
        host_to_device=measured.host_to_device,
        memory_mb=peak_memory_mb(update.world.device),
        latency_s=progress.latency_s,
        cos_ssl_sl=cosines[0],
        cos_ssl_mix=cosines[1],
        cos_sl_mix=cosines[2],
        skipped=progress.skipped,
        bad_samples=bad_samples,
        loss_scale=loss_scale,
    )


def judged(
    record: StepRecord,
    progress: Progress,
    bad_samples: int,
    memory_mb: float,
    score: Score | None,
    picture: str | None,
    findings: Findings | None,
) -> StepRecord:
    """Return the record with what was found at the end of its epoch; None for what was not due."""
    return replace(
        record,
        accuracy=score.accuracy if score else None,
        top5=score.top5_accuracy if score else None,
        tasks=dict(progress.tasks) if score and progress.tasks else None,
        knn=findings.knn if findings else None,
        linear_probe=findings.linear if findings else None,
        feature_spread=findings.spread if findings else None,
        feature_rank=findings.rank if findings else None,
        collapsed=findings.collapsed if findings else None,
        reconstruction=picture,
        bad_samples=bad_samples,
        memory_mb=memory_mb,
    )


def _joint(measured: Measured, alpha: float) -> float:
    """Return the loss of Eq. 3; not a number where no loss of the window was finite."""
    if measured.loss_ssl is None and measured.loss_sl is None:
        return math.nan
    return alpha * (measured.loss_ssl or 0.0) + (1 - alpha) * (measured.loss_sl or 0.0)
