"""What a person reads of a run: records, standings and results as lines of plain ASCII."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from mixdist.engine.record import StepRecord
from mixdist.tracking.progress import Standing
from mixdist.tracking.tracker import PhaseInfo

GAP = "  "


def duration(seconds: float | None) -> str:
    """Write seconds as ``mm:ss``, from an hour on as ``h:mm:ss``; None as ``--:--``."""
    if seconds is None:
        return "--:--"
    minutes, second = divmod(round(seconds), 60)
    hour, minute = divmod(minutes, 60)
    return f"{hour}:{minute:02}:{second:02}" if hour else f"{minute:02}:{second:02}"


def epoch(record: StepRecord, standing: Standing) -> str:
    """Return the epoch in the phase."""
    return f"epoch {record.phase_epoch}/{standing.phase.epochs}"


def step(standing: Standing) -> str:
    """Return the step in the phase."""
    return f"step {standing.phase_step}/{standing.phase.steps}"


def measures(record: StepRecord, accuracy: float | None) -> str:
    """Return losses, the accuracy last measured, learning rate, throughput and share of waiting."""
    parts = [
        _losses(record),
        "" if accuracy is None else f"top-1 {accuracy:.1f} %",
        _cosines(record),
        f"lr {record.lr:.1e}",
        f"{record.images_per_s:,.0f} images/s",
        f"data-wait {100 * record.data_wait:.1f} %",
    ]
    return GAP.join(part for part in parts if part)


def full(record: StepRecord, standing: Standing, accuracy: float | None) -> str:
    """Return all that is known of a record, for a log file."""
    eta = f"ETA phase {duration(standing.eta_phase_s)}, run {duration(standing.eta_run_s)}"
    return GAP.join([record.phase, epoch(record, standing), step(standing), measures(record, accuracy), eta])


def evaluation(record: StepRecord, standing: Standing) -> str:
    """Return the line of an evaluation."""
    top5 = "" if record.top5 is None else f"{GAP}top-5 {record.top5:.1f} %"
    place = GAP.join([record.phase, epoch(record, standing), step(standing)])
    return f"{place}{GAP}top-1 {record.accuracy:.1f} %{top5}{GAP}{_losses(record)}"


def probe(record: StepRecord, standing: Standing) -> str:
    """Return the line of a probe of frozen features."""
    place = GAP.join([record.phase, epoch(record, standing), step(standing)])
    return (
        f"{place}{GAP}probe: kNN {record.knn:.1f} %{GAP}linear {record.linear_probe:.1f} %{GAP}"
        f"spread {record.feature_spread:.3f}{GAP}rank {record.feature_rank:.1f}"
    )


def data_bound(record: StepRecord) -> str:
    """Say that the training waits for images, and what would shorten that.

    Workers that are busy for less than half of the waiting, and of the window, are not what is waited for. What this
    process decodes itself, without workers, fills most of its waiting.
    """
    waits = f"data-bound: {100 * record.data_wait:.0f} % of the time waits for images"
    if record.decode is None:  # of a run of an earlier mixdist, which is watched
        return f"{waits}; raise --data.workers or use --data.cache ram"
    busy = f"{100 * record.decode:.0f} %"
    if record.decode == 0:
        return f"{waits}, though they are kept decoded: the processor is busy elsewhere, or a step is very short"
    if record.decode < min(0.5, record.data_wait / 2):
        return f"{waits}, yet the workers are busy for {busy} only; more would not help, --data.cache ram may"
    return f"{waits}, the workers are busy for {busy}; raise --data.workers or use --data.cache ram"


COLLAPSED = (
    "features have collapsed: to the backbone all images look alike, or lie on a line (spread, rank; docs/probes.md); "
    "a lower optim.ssl.base_lr or a longer warm-up is the first thing to try"
)


def phase_start(phase: PhaseInfo, number: int, phases: int, after: str = "") -> str:
    """Return the line that opens a phase, of which a resume goes on ``after`` a step: "STEP of STEPS" of the run."""
    resumed = f", going on after step {after}" if after else ""
    return f"{phase.name}{GAP}phase {number + 1} of {phases}: {phase.epochs} epochs, {phase.steps} steps{resumed}"


def phase_end(record: StepRecord) -> str:
    """Return the line that closes a phase."""
    return f"{record.phase}{GAP}done after step {record.step}, {duration(record.latency_s)} of training so far"


def summary(result: dict[str, Any], folder: Path) -> list[str]:
    """Return the lines that close a finished run; one without a supervised epoch has no accuracy to compare."""
    accuracy, top5 = result["accuracy"], result["top5"]
    phases = ", ".join(f"{name} {duration(phase['latency_s'])}" for name, phase in result["phases"].items())
    return [
        "accuracy    none, no supervised epoch"
        if accuracy is None
        else f"accuracy    {accuracy:.2f} % top-1{'' if top5 is None else f', {top5:.2f} % top-5'} on the test split",
        f"latency     {duration(result['latency_s'])} of training ({phases})",
        f"besides     evaluation {duration(result['evaluation_s'])}, checkpoints {duration(result['checkpoint_s'])}, "
        f"set-up {duration(result['setup_s'])}",
        f"throughput  {result['images_per_s']:,.0f} images/s on {result['world_size']} x {result['device']}",
        f"written     {folder}: {', '.join(_written(folder))}",
        *([] if accuracy is None else [f"compare     mixdist compare {shlex.quote(str(folder))}"]),
    ]


def _written(folder: Path) -> list[str]:
    """Return the names in a run folder, folders with a slash, without what is there for a moment only."""
    found = sorted(folder.iterdir()) if folder.is_dir() else []
    return [path.name + "/" * path.is_dir() for path in found if path.name != "lock" and path.suffix != ".partial"]


def stopped(last: Standing | None, folder: Path) -> str:
    """Return the line that closes a run without a result."""
    place = "before its first record" if last is None else f"at step {last.step} of {last.steps}"
    return f"stopped {place}; what it wrote is in {folder}"


def _losses(record: StepRecord) -> str:
    loss = f"loss {_number(record.loss)}"
    if record.loss_ssl is None or record.loss_sl is None:
        return loss
    return f"{loss} (ssl {_number(record.loss_ssl)}, sl {_number(record.loss_sl)})"


def _cosines(record: StepRecord) -> str:
    if record.cos_ssl_sl is None or record.cos_ssl_mix is None or record.cos_sl_mix is None:
        return ""
    return f"cos ssl-sl {record.cos_ssl_sl:.2f} ssl-mix {record.cos_ssl_mix:.2f} sl-mix {record.cos_sl_mix:.2f}"


def _number(value: float) -> str:
    return f"{value:.3f}" if abs(value) >= 0.1 else f"{value:.2e}"
