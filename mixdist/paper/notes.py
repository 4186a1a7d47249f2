"""What to know of an outcome: what makes the runs others than the paper's, and what its figures are."""

from __future__ import annotations

from collections.abc import Sequence

from mixdist.paper.outcome import Entry, Outcome

SEEDS = 4  # of the paper
DRAWN = ("semi-supervised", "label-noise")  # variants that draw from a set
MASKING = "method.ssl_masking"


def marks_of(outcome: Outcome) -> list[str]:
    """Say what makes these runs others than the paper's: their scale, changed settings, smaller sets."""
    said = [
        f"Scaled to {scale:g} by --scale: epochs and data are shortened, so this is not the paper's experiment"
        for scale in outcome.scales
    ]
    # Those of a failed run may be what was wrong, and stand in no figure.
    changes = dict.fromkeys(entry.changes for entry in outcome.entries if entry.reason is None and entry.changes)
    said += [f"Settings other than the paper's: {each}" for each in changes]
    return said + list(dict.fromkeys(note for entry in outcome.entries for note in entry.about["notes"]))


def notes_of(outcome: Outcome) -> list[str]:
    """Say what to know of the table's figures."""
    said = []
    if bases := [base for row in outcome.rows if (base := outcome.baseline(row))]:
        # SSL that masks its input takes less time, which is another baseline: docs/input-masking.md.
        changed = any(MASKING in entry.about["changes"] for base in bases for entry in base.entries)
        vit = any(base.cell.backbone == "vit_tiny" for base in bases) and not changed
        masks = ", whose SSL masks features, as the paper's," if vit else ""
        said.append(
            f"Speed-up: training time of ssl+sl{masks} in the same setting, on the same hardware and layout, divided "
            f"by this one's."
        )
    return [*said, *_time_notes(outcome), *_seed_notes(outcome), *state_notes(outcome.entries)]


def _time_notes(outcome: Outcome) -> list[str]:
    found = sorted({machine for row in outcome.rows for machine in row.machines})
    if not found:
        return []
    ours = ", ".join(f"{size} × {device}{f' with {layout}' if layout else ''}" for size, device, layout in found)
    said = f"Training time is without evaluation, checkpoints and set-up; ours on {ours}"
    if any(row.cell.latency_s for row in outcome.rows):
        both = any(outcome.speed_ups(row)[1] for row in outcome.rows)
        compare = "hold the speed-ups against each other, not the seconds" if both else "the seconds do not compare"
        said += f", the paper's on one RTX 6000 Ada: {compare}"
    return [f"{said}."]


def _seed_notes(outcome: Outcome) -> list[str]:
    counts = {len(row.results) for row in outcome.rows}
    said = []
    if counts != {SEEDS}:
        spread = f"{min(counts)}" if len(counts) == 1 else f"{min(counts)} to {max(counts)}"
        said.append(f"Seeds of a row: {spread}; the paper has {SEEDS}.")
    if max(counts, default=0) > 1:
        said.append("± is the sample standard deviation over the seeds of a row.")
    if any(row.cell.fraction < 1 or row.cell.variant in DRAWN for row in outcome.rows) or outcome.scales:
        said.append("Seeds share the images, labels and noise that are drawn from a set; ± leaves that variance out.")
    return said


def state_notes(entries: Sequence[Entry]) -> list[str]:
    """Say which runs failed, and why, and how many have not finished."""
    said = [f"Failed: {entry.folder.name}: {entry.reason}" for entry in entries if entry.reason is not None]
    waiting = sum(entry.state == "not finished" for entry in entries)
    return said + ([f"Not finished yet: {waiting} run{'' if waiting == 1 else 's'}."] if waiting else [])
