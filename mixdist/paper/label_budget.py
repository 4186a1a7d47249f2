"""`mixdist label-budget`: what each arm makes of 1 to 100 % of a set's labels, and the curve of it."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from decimal import Decimal
from functools import partial
from pathlib import Path

import numpy as np

from mixdist.arguments import Parser, refuse_below_one
from mixdist.config.schema import Config
from mixdist.data.index import PackedSet
from mixdist.data.packing.summary import plain_or_terminal, print_line
from mixdist.data.remote.urls import base_name, is_remote
from mixdist.data.samples import Samples, find_samples
from mixdist.data.select import labelled_ids, training_ids
from mixdist.data.subset import smallest_fraction
from mixdist.errors import DataError, UserError
from mixdist.paper.budget_outcome import curves_of, long_form, read_budget, text_of
from mixdist.paper.build import flags_of, make_job
from mixdist.paper.closing import exit_code, print_table
from mixdist.paper.command_line import at_dashes, part, read_settings, refuse_seeds, refuse_twice
from mixdist.paper.jobs import Job
from mixdist.paper.place import take_place
from mixdist.paper.runner import Runner
from mixdist.report.summarise import ARMS

SHARES = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0)
SEEDS = (0, 1, 2)
WHOLE = {"labelled_fraction": 1.0, "ssl_only_unlabelled": False}
DECIDED = ("seed", "run.dir", "data.sl", "data.labelled_fraction", "data.subset_seed", "method.arm")


def main(argv: Sequence[str]) -> int:
    """Train the curve that the command line asks for; return the exit code, as of `mixdist reproduce`.

    Raises:
        UserError: no packed set, a share that leaves a class without a label, a setting out of range.
    """
    own, words = at_dashes(argv)
    options = _parser().parse_args(own)
    _check(options)
    changes = read_settings(words, dict.fromkeys(DECIDED, "the curve decides it; use its own options"))
    console = plain_or_terminal()
    say = partial(print_line, console)
    name = base_name(options.data) if is_remote(options.data) else Path(options.data).name
    place = options.out / f"label-budget-{name}"
    jobs = _jobs(options, changes, place)
    take_place(place, jobs)
    number, of = options.part
    runner = Runner(jobs[number - 1 :: of], options.nproc, options.out, say)
    states = runner.run()
    from mixdist.paper.write import write_report, writing  # matplotlib takes a second to import
    from mixdist.report.budget import budget_curve
    from mixdist.report.svg import style

    with writing(place):
        points = read_budget(place)
        text, curves = text_of(points, place), curves_of(points)
        with style():
            pictures = [budget_curve(curves)] if curves else []
        write_report(place, text, long_form(points), pictures, [one for point in points for one in point.entries])
    print_table(text, console)
    say(f"wrote report.html, report.md, results.csv and label-budget.svg and .png into {place}")
    return exit_code(runner, states, say)


def _jobs(options: argparse.Namespace, changes: Mapping[str, str], place: Path) -> list[Job]:
    """Return the runs, seed by seed; each seed draws its own labels, those of a share among those of a larger one."""
    jobs: list[Job] = []
    opened: dict[str, PackedSet] = {}
    for seed in options.seeds:
        for share in options.share:
            for arm in options.arm:
                name = f"{100 * share:g}pct-{arm}-seed{seed}"
                settings = {
                    "data.sl": options.data,
                    "data.labelled_fraction": share,
                    "data.subset_seed": seed,
                    "method.arm": arm,
                    "seed": seed,
                    "run.dir": str(place / name),
                }
                about = {"share": share, "arm": arm, "seed": seed}
                flags = flags_of(options.config, {**settings, **changes})
                jobs.append(make_job(name, place / name, flags, flags_of([], settings), opened, about))
    config = jobs[-1].config
    whole = find_samples(config.model_copy(update={"data": config.data.model_copy(update=WHOLE)}))
    for share, job in {job.about["share"]: job for job in jobs}.items():
        _check_share(share, job.config, whole)
    return jobs


def _check_share(share: float, config: Config, found: Samples) -> None:
    """Refuse a share that leaves a class without a label, before anything is trained.

    Args:
        share: of the labels.
        config: of a run with this share.
        found: the samples where all keep their label.

    Raises:
        UserError: naming the smallest share that leaves none, where shares are drawn from each class alike.
    """
    try:
        labelled_ids(found.sl, training_ids(found.sl, config.data), config.data)
    except DataError:
        raise _too_small(share, config, found) from None
    find_samples(config)


def _too_small(share: float, config: Config, found: Samples) -> UserError:
    counts = np.bincount(found.sl.split("train").labels[found.sl_ids], minlength=len(found.sl.classes))
    name, labels = found.sl.classes[counts.argmin()], int(counts.min())
    enough = Decimal(smallest_fraction(labels)) if config.data.stratified else None
    others = [f"{one:g}" for one in SHARES if one >= (2 * share if enough is None else enough)] or ["1"]
    return UserError(
        f"--share {share:g} leaves a class of {found.sl.location} without a label: of '{name}' there are {labels}; "
        f"give {'larger shares' if enough is None else f'shares of at least {enough}'}, as --share {' '.join(others)}"
    )


def _check(options: argparse.Namespace) -> None:
    refuse_below_one(nproc=options.nproc)
    refuse_seeds(options.seeds)
    for share in options.share:
        if not 0 < share <= 1:
            raise UserError(f"--share {share:g} is out of range; each should be above 0, up to 1")
    refuse_twice("--share", options.share)
    refuse_twice("--arm", options.arm)


def _parser() -> Parser:
    parser = Parser(
        "mixdist label-budget",
        "Train every arm on growing shares of a packed set's labels, several seeds each, and draw the curve. SSL sees "
        "all images. Settings after -- are given to every run.",
    )
    add = parser.add_argument
    add("data", metavar="DATA", help="packed set, a folder or a URL")
    add("--share", nargs="+", type=float, default=list(SHARES), metavar="P", help="shares of the labels (0.01 to 1)")
    add("--arm", nargs="+", choices=ARMS, default=list(ARMS), metavar="ARM", help="arms (default: all three)")
    add("--seeds", nargs="+", type=int, default=list(SEEDS), metavar="N", help="seeds of each point (default: 0 1 2)")
    add("--config", nargs="+", type=Path, default=[], metavar="FILE", help="settings of every run, as of mixdist train")
    add("--nproc", type=int, default=1, metavar="N", help="processes, by torchrun, of each run (default: 1)")
    add("--part", type=part, default=(1, 1), metavar="K/N", help="every N-th run from the K-th on: for a job array")
    add("--out", type=Path, default=Path("runs"), metavar="DIR", help="folder of all grids (default: runs)")
    return parser
