"""`--dry-run`: what a grid would train, in steps, and about how long that takes on this machine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from mixdist.config.read import read_config
from mixdist.config.schema import Config
from mixdist.data.index import PackedSet
from mixdist.data.packing.summary import print_line
from mixdist.data.samples import find_samples
from mixdist.paper.build import PROGRAM, build_jobs, flags_of
from mixdist.paper.cells import Cell
from mixdist.paper.jobs import finished_runs
from mixdist.paper.order import Order
from mixdist.paper.place import check_place
from mixdist.paper.probe import Speed, probe
from mixdist.paper.sets import KNOWN
from mixdist.paper.settings import Scale, config_file, sets_of, settings_of
from mixdist.plan import Counts, Plan, make_plan


@dataclass(frozen=True)
class Forecast:
    """The work of one run of a cell."""

    plan: Plan
    seconds: float

    @property
    def hours(self) -> float:
        """Expected, training and evaluation."""
        return self.seconds / 3600


def forecast(
    cell: Cell, order: Order, scale: Scale, here: Mapping[str, PackedSet], speeds: dict[str, Speed]
) -> Forecast:
    """Lay out one run of a cell and estimate its time.

    Args:
        cell: as the paper has it.
        order: of the grid.
        scale: of the grid.
        here: the sets that are packed already; of the others, the paper's sizes count.
        speeds: what was probed so far, by model and image size; added to.

    Raises:
        UserError: a setting out of range, or a model that cannot be built.
    """
    trained = scale.shorten(cell)
    locations = {name: str(order.shelf.place(name)) for name in (cell.sl_dataset, cell.ssl_dataset)}
    settings = {**settings_of(trained, 0, locations, Path("dry-run"), scale.share != 1), **order.changes}
    file = config_file(cell)
    config = read_config(flags_of([file], settings), PROGRAM)
    size, counts, tests = _sizes(cell, config, here)
    plan = make_plan(config, counts)
    key = f"{file} {size}"
    speed = speeds.get(key) or speeds.setdefault(key, probe(cell.backbone, file, order.changes, size))
    seconds = sum(phase.epochs * phase.samples * speed.phases[phase.name] for phase in plan.phases)
    every, supervised = config.train.eval_every, [phase.epochs for phase in plan.phases if phase.name != "ssl"]
    evaluations = sum(epochs // every for epochs in supervised) + any(epochs % every for epochs in supervised[-1:])
    return Forecast(plan, seconds + evaluations * tests * speed.evaluation)


def _sizes(cell: Cell, config: Config, here: Mapping[str, PackedSet]) -> tuple[int, Counts, int]:
    """Return image size, counts of training samples and number of test images."""
    sl, ssl = cell.sl_dataset, cell.sl_dataset if config.data.ssl is None else cell.ssl_dataset
    if sl in here and ssl in here:
        samples = find_samples(config)
        return samples.image_size, samples.counts, len(here[sl].split("test").index)
    images = [round(config.data.fraction * KNOWN[name].train) for name in (ssl, sl)]
    counts = Counts(images[0], round(config.data.labelled_fraction * images[1]), KNOWN[sl].classes)
    return config.data.image_size or KNOWN[sl].size, counts, KNOWN[sl].test


def print_forecast(order: Order, scale: Scale, here: Mapping[str, PackedSet], console: Console) -> None:
    """Print a line a cell and the sum: runs, steps and hours that are left.

    Raises:
        UserError: see `forecast`; runs of other settings are in the grid's folder.
    """
    done = _done(order, scale, here)
    speeds: dict[str, Speed] = {}
    work = [(cell, forecast(cell, order, scale, here, speeds)) for cell in order.chosen.cells]
    device = next(iter(speeds.values())).device
    devices = order.nproc if device == "cuda" else 1  # the cores of a CPU were all probed at once
    table = Table("cell", "runs left", "steps a run", "hours a run", box=None)
    table.columns[0].overflow = "fold"
    for column in table.columns[1:]:
        column.justify = "right"
    runs, steps, hours = 0, 0, 0.0
    for cell, expected in work:
        left = len(order.seeds) - done[cell.name]
        table.add_row(cell.name, str(left), f"{expected.plan.steps:,}", f"{expected.hours / devices:.2f}")
        runs, steps, hours = runs + left, steps + left * expected.plan.steps, hours + left * expected.hours / devices
    console.print(table, highlight=False)
    print_line(
        console,
        f"{runs} runs, {steps:,} steps, about {hours:.1f} hours with --nproc {order.nproc} on {device}, by a probe of "
        f"a few steps just now; loading and saving come on top",
    )
    if order.part[1] > 1:
        print_line(console, f"part {order.part[0]}/{order.part[1]} has about {hours / order.part[1]:.1f} hours of them")
    if scale.share != 1:
        print_line(console, f"scaled by {scale.share:g}: fewer epochs and images than the paper's; not its figures")


def _done(order: Order, scale: Scale, here: Mapping[str, PackedSet]) -> Counter[str]:
    """Count the finished runs by cell; of sets that are not here, none can be.

    Raises:
        UserError: see `check_place`.
    """
    known = [cell for cell in order.chosen.cells if set(sets_of([cell])) <= here.keys()]
    finished = finished_runs(order.out)
    jobs = build_jobs(order, known, scale, here)
    check_place(order.place, jobs)
    return Counter(Cell(**job.about["cell"]).name for job in jobs if job.finished or job.hash in finished)
