"""Carry out what `mixdist reproduce` was asked: sets, jobs, training and outputs, or a forecast of it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from mixdist.data.index import PackedSet
from mixdist.data.packing.summary import plain_or_terminal, print_line
from mixdist.paper.build import build_jobs, check_settings
from mixdist.paper.closing import exit_code, print_table
from mixdist.paper.forecast import print_forecast
from mixdist.paper.order import Order
from mixdist.paper.outcome import read_outcome
from mixdist.paper.place import take_place
from mixdist.paper.runner import Runner
from mixdist.paper.sets import KNOWN, rarest
from mixdist.paper.settings import Scale, scale_of, sets_of


def forecast(order: Order) -> int:
    """Print what would be trained, and about how long it takes; sets that are not packed yet count by their known size.

    Raises:
        UserError: a set that is another one, a setting out of range.
    """
    order.shelf.check_sources()
    check_settings(order)
    console = plain_or_terminal()
    found = {name: order.shelf.find(name) for name in sets_of(order.chosen.cells)}
    for name, packed in found.items():
        if packed is None:
            place = order.shelf.place(name)
            print_line(console, f"{KNOWN[name].title} is not in {place}: the paper's size counts")
        order.shelf.tell_unread(name, partial(print_line, console))
    here = {name: packed for name, packed in found.items() if packed is not None}
    print_forecast(order, _scale(order, here), here, console)
    return 0


def train(order: Order) -> int:
    """Train what is not finished, write the outputs, and return the exit code of `mixdist reproduce`.

    Raises:
        UserError: a set that is not to be had, a setting out of range, or other runs in the grid's folder.
    """
    order.shelf.check_sources()
    check_settings(order)
    console = plain_or_terminal()
    say = partial(print_line, console)
    sets = {name: order.shelf.obtain(name, say) for name in sets_of(order.chosen.cells)}
    number, of = order.part
    jobs = build_jobs(order, order.chosen.cells, _scale(order, sets), sets)[number - 1 :: of]
    take_place(order.place, jobs)
    runner = Runner(jobs, order.nproc, order.out, say)
    states = runner.run()
    from mixdist.paper.write import write_outcome  # matplotlib takes a second to import

    text = write_outcome(lambda: read_outcome(order.whole, order.place, order.chosen.cells), order.place)
    print_table(text, console)
    say(f"wrote report.html, report.md and results.csv into {order.place}")
    return exit_code(runner, states, say)


def _scale(order: Order, here: Mapping[str, PackedSet]) -> Scale:
    """Return the scale of the grid; a D_ssl counts also for rows of which no arm that reads it was chosen."""
    names = dict.fromkeys(name for cell in order.chosen.cells for name in (cell.sl_dataset, cell.ssl_dataset))
    found = {name: here.get(name) or order.shelf.find(name) for name in names}
    return scale_of(order.whole, order.share, {name: rarest(name, packed) for name, packed in found.items()})
