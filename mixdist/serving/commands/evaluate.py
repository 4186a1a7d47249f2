"""`mixdist evaluate`: the accuracy of a model on labelled images."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table
from rich.text import Text

from mixdist.arguments import Parser, refuse_below_one, written
from mixdist.data.packing.summary import plain_or_terminal, print_line
from mixdist.errors import UserError, nearest
from mixdist.files import write_json
from mixdist.serving.commands.predict import LISTED, UNREAD
from mixdist.serving.items import Item, find_items, is_packed, open_packed
from mixdist.serving.predict import predict
from mixdist.serving.scoring import Scored, score
from mixdist.serving.served import Served, load_model

MAX_ROWS = 50  # of the table of classes


def main(argv: Sequence[str]) -> int:
    """Print the accuracy of a model; return 0, or 1 where some images could not be read.

    Raises:
        UserError: see `load_model` and `find_items`; data without labels, or with classes that the model does not know.
    """
    options = _parse(argv)
    refuse_below_one(batch=options.batch or 1, threads=options.threads)
    served = load_model(options.model)
    classes = served.task.classes
    split = _split(options.data, options.split) if is_packed(options.data) else options.split
    items = _labelled(options.data, split, served)
    scored = score(predict(served, items, options.batch or served.batch, options.threads), classes)
    _print(scored, classes, served.accuracy)
    if options.json:
        with written("--json", options.json):
            write_json(options.json, scored.as_dict(classes))
    return UNREAD if scored.unread else 0


def _split(data: str, given: str | None) -> str:
    """Return the split of a packed set to measure on: the test split, where none is named."""
    packed = open_packed(data)
    if not packed.classes:
        raise UserError(f"{data} has no labels to measure against; mixdist predict says what its images are")
    if given is None and "test" not in packed.splits:
        raise UserError(
            f"{data} has no test split (it has: {', '.join(packed.splits)}); name one, as in --split train, or pack it "
            f"again with --test-fraction"
        )
    return given or "test"


def _labelled(data: str, split: str | None, served: Served) -> list[Item]:
    classes = served.task.classes
    items = [item for item in find_items(data, served.view, split) if item.label is not None]
    if not items:
        raise UserError(f"{data} has no labelled image; give a packed set, or a folder with a folder for each class")
    if unknown := sorted({str(item.label) for item in items} - set(classes)):
        more = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
        raise UserError(
            f"{data} has images of class '{unknown[0]}'{more}, which the model does not know"
            f"{nearest(unknown[0], list(classes))}; its classes are {', '.join(classes[:10])}"
            f"{', …' if len(classes) > 10 else ''}"
        )
    return items


def _print(scored: Scored, classes: tuple[str, ...], of_the_run: float | None) -> None:
    console = plain_or_terminal()
    found = scored.score
    top5 = "" if found.top5_accuracy is None else f", top-5 {found.top5_accuracy:.2f} %"
    print_line(console, f"top-1 {found.accuracy:.2f} % ({found.top1:,} of {found.samples:,}){top5}")
    if of_the_run is not None:
        print_line(console, f"the run's own evaluation, on its test split: top-1 {of_the_run:.2f} %")
    present = [row for row in range(len(classes)) if scored.confusion[row].any()]
    if len(present) <= MAX_ROWS:
        table = Table("class", "images", "right", "most often taken for")
        for row in present:
            # Text: a stranger's name may hold what rich takes for markup.
            table.add_row(*map(Text, _class_row(scored, classes, row)))
        console.print(table)
    if scored.unread:
        lines = [f"{len(scored.unread):,} could not be read, and are not counted:", *scored.unread[:LISTED]]
        sys.stderr.write("\n  ".join(lines) + "\n")


def _class_row(scored: Scored, classes: tuple[str, ...], row: int) -> list[str]:
    counts = scored.confusion[row]
    wrong = counts.copy()
    wrong[row] = 0
    other = int(wrong.argmax())
    taken = f"{classes[other]} ({wrong[other]:,})" if wrong[other] else ""
    return [classes[row], f"{counts.sum():,}", f"{100 * counts[row] / counts.sum():.1f} %", taken]


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = Parser("mixdist evaluate", "Measure a model on labelled images.")
    parser.add_argument("model", type=Path, metavar="MODEL", help="run folder or exported model")
    parser.add_argument(
        "data", metavar="DATA", help="packed set (folder or URL), or a folder with a folder of images for each class"
    )
    parser.add_argument("--split", metavar="NAME", help="of a packed set (test)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures and the confusion matrix")
    parser.add_argument("--batch", type=int, metavar="N", help="images of one forward (train.eval_batch of the run)")
    parser.add_argument(
        "--threads", type=int, default=min(8, os.cpu_count() or 1), metavar="N", help="that decode (%(default)s)"
    )
    return parser.parse_args(argv)
