"""`mixdist reproduce`: a table of the paper -> its runs, trained where they are not, and ours beside the paper's."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from mixdist.arguments import Parser, refuse_below_one
from mixdist.errors import UserError, nearest
from mixdist.paper.command_line import at_dashes, part, refuse_seeds
from mixdist.paper.grid import FILTERS, MEASUREMENTS, TITLES, grid_of
from mixdist.paper.order import Order
from mixdist.paper.sets import KNOWN, Shelf
from mixdist.paper.settings import read_changes

SEEDS = (0, 1, 2, 3)  # the paper's number of them


def main(argv: Sequence[str]) -> int:
    """Reproduce what the command line names; return the exit code (docs/reproduce.md).

    0: all runs chosen are finished, or in the hands of another process; 1: some failed; 75 or 130: stopped by a signal.

    Raises:
        UserError: an unknown table, a filter that matches nothing, a set that is not to be had, a setting out of range.
    """
    own, changes = at_dashes(argv)
    options = _parser().parse_args(own)
    whole = grid_of(options.table)
    _check(options)
    chosen = whole.select({option: getattr(options, option) for option in FILTERS})
    order = Order(
        whole=whole,
        chosen=chosen,
        seeds=tuple(options.seeds),
        changes=read_changes(changes, whole),
        share=options.scale,
        nproc=options.nproc,
        part=options.part,
        out=options.out,
        shelf=Shelf(options.data, _sources(options.source)),
    )
    from mixdist.paper.carry_out import forecast, train  # torch takes seconds to import

    return forecast(order) if options.dry_run else train(order)


def _check(options: argparse.Namespace) -> None:
    refuse_below_one(nproc=options.nproc)
    if not 0 < options.scale <= 1:
        raise UserError(
            f"--scale {options.scale:g} is out of range; it should be above 0, up to 1, which is the paper's own size"
        )
    refuse_seeds(options.seeds)


def _sources(given: Sequence[str]) -> dict[str, str]:
    found = {}
    for text in given:
        name, sign, place = text.partition("=")
        if not sign or not place:
            raise UserError(f"--source {text} should be NAME=PLACE, as in cifar10=downloads/cifar-10-python.tar.gz")
        if name not in KNOWN:
            raise UserError(
                f"--source {text}: '{name}' is no set of the paper{nearest(name, list(KNOWN))}; there are "
                f"{', '.join(KNOWN)}"
            )
        found[name] = place
    return found


def _parser() -> Parser:
    parser = Parser(
        "mixdist reproduce",
        "Train what a table of the paper compares, and print ours beside the paper's. Settings after -- are given to "
        "every run, as in: mixdist reproduce table2 --seeds 0 -- --train.precision bf16",
    )
    add = parser.add_argument
    add("table", metavar="TABLE", help=", ".join([*TITLES, *MEASUREMENTS]))
    add("--dataset", nargs="+", metavar="NAME", help=f"only these sets ({', '.join(KNOWN)})")
    add("--fraction", nargs="+", type=float, metavar="P", help="only these shares of the data, as 0.1")
    add("--arm", nargs="+", metavar="ARM", help="only these arms (sl, ssl+sl, mixtraining)")
    add("--epochs", nargs="+", type=int, metavar="N", help="only cells of so many epochs")
    add("--backbone", nargs="+", metavar="NAME", help="only these backbones (vit_tiny, resnet18)")
    add("--seeds", nargs="+", type=int, default=list(SEEDS), metavar="N", help="seeds of each cell (default: 0 1 2 3)")
    add("--scale", type=float, default=1.0, metavar="S", help="shorten epochs and data to this share; outputs say so")
    add("--dry-run", action="store_true", help="say what would be trained, and about how long, from a short probe")
    add("--nproc", type=int, default=1, metavar="N", help="processes, by torchrun, of each run (default: 1)")
    add("--part", type=part, default=(1, 1), metavar="K/N", help="every N-th run from the K-th on: for a job array")
    add("--out", type=Path, default=Path("runs"), metavar="DIR", help="folder of all grids (default: runs)")
    add("--data", type=Path, default=Path("data"), metavar="DIR", help="folder of the packed sets (default: data)")
    add("--source", nargs="+", action="extend", default=[], metavar="NAME=PLACE", help="folder, archive or packed set")
    return parser
