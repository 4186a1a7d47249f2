"""A forecast as text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from mixdist.config.schema import Config
from mixdist.data.packing.summary import LABEL, print_entry, print_line
from mixdist.data.samples import Samples
from mixdist.plan import Plan
from mixdist.planning.curves import phase_at, points, rate, sparkline
from mixdist.planning.forecast import Memory, PhaseForecast, Sizes

Entry = tuple[str, str]  # label, text
COLUMNS = 72  # of the curves, at most
PEAK = len(" up to 0.000123")


@dataclass(frozen=True)
class Told:
    """A forecast with what it was made from."""

    phases: list[PhaseForecast]
    held: Memory
    sizes: Sizes
    figures: dict[str, Any]  #: see `forecast.as_dict`
    where: str  #: where the times come from


def print_forecast(console: Console, config: Config, samples: Samples, plan: Plan, told: Told) -> None:
    """Print it as lines and a table."""
    print_line(console, f"{config.method.arm}: {config.model.backbone} at {samples.image_size} px")
    for label, text in _what(config, samples, told.sizes):
        print_entry(console, label, text)
    console.print(_table(told.phases))
    curves = _curves(plan, min(COLUMNS, console.width - LABEL - PEAK))
    for label, text in (*_cost(told), *curves, *(("note", note) for note in plan.notes)):
        print_entry(console, label, text)


def _what(config: Config, samples: Samples, sizes: Sizes) -> list[Entry]:
    counts, ranks = samples.counts, _ranks(sizes.ranks)
    parameters = ", ".join(f"{group} {count / 1e6:.2f} M" for group, count in sizes.parameters.items())
    return [
        ("parameters", parameters),
        (
            "data",
            f"SSL {counts.ssl:,} images, SL {counts.sl:,} labelled, {counts.classes} classes; {_shards(samples)}",
        ),
        (
            "step",
            f"{config.train.batch} images: {sizes.share} a rank on {ranks}, {config.data.workers} loading processes "
            f"each; any number of shards fits, as samples are divided, not shards",
        ),
    ]


def _cost(told: Told) -> list[Entry]:
    figures, held, took = told.figures, told.held, ""
    if figures["hours"] is not None:
        ranks = _ranks(told.sizes.ranks)
        took = f"{_hours(figures['hours'])} on {ranks}, {figures['gpu_hours']:.2f} GPU hours; "
    entries = [("time", f"{took}{told.where}")]
    if (ratio := figures["merged_pass_flop_ratio"]) is not None:
        entries.append(("merged pass", f"a MIX step does {ratio:.2f} of the operations of an SSL and an SL step"))
    return [*entries, ("memory", f"about {_bytes(held.total)} a rank: {_parts(held)}")]


def _ranks(count: int) -> str:
    return "1 rank" if count == 1 else f"{count} ranks"


def _table(phases: list[PhaseForecast]) -> Table:
    table = Table("phase", "epochs", "steps", "images", "last batch", "GFLOP/image", "s/step", "time")
    for column in table.columns[1:]:
        column.justify = "right"
    for one in phases:
        step = "" if one.step_s is None else f"{one.step_s:.4g}"
        took = "" if one.hours is None else _hours(one.hours)
        numbers = (f"{one.epochs:,}", f"{one.steps:,}", f"{one.samples:,}", str(one.last_batch))
        table.add_row(one.name, *numbers, f"{one.gflop_per_image:.3g}", step, took)
    return table


def _curves(plan: Plan, columns: int) -> list[Entry]:
    steps = points(plan, max(1, columns))
    rates = [rate(plan, step, "backbone") for step in steps]
    top = max(value for value in rates if value is not None)
    alphas: list[float | None] = []
    for step in steps:
        phase = phase_at(plan, step)
        alphas.append(phase.alpha.at(step - phase.first_step, phase.steps))
    return [("lr of B", f"{sparkline(rates, top)} up to {top:.3g}"), ("α", f"{sparkline(alphas, 1.0)} up to 1")]


def _shards(samples: Samples) -> str:
    if not hasattr(samples.ssl, "splits"):
        return "D_ssl is tars without an index"
    shards = len(samples.sl.split("train").shards)
    return f"{shards} training shard{'s' * (shards > 1)}"


def _hours(hours: float) -> str:
    if hours < 1 / 60:
        return f"{3600 * hours:.1f} s"
    return f"{60 * hours:.1f} min" if hours < 1 else f"{hours:.1f} h"


def _bytes(count: int) -> str:
    return f"{count / 2**30:.2f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"


def _parts(held: Memory) -> str:
    named = {
        "weights": held.weights,
        "gradients": held.gradients,
        "AdamW": held.moments,
        "average": held.average,
        "activations of a micro-batch": held.activations,
        "decoded images": held.resident,
    }
    return ", ".join(f"{name} {_bytes(count)}" for name, count in named.items() if count)
