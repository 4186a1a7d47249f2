"""`mixdist predict`: the most likely classes of images, videos, tars and packed sets."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

from mixdist.arguments import Parser, refuse_below_one
from mixdist.serving.items import find_items
from mixdist.serving.predict import predict
from mixdist.serving.served import load_model
from mixdist.serving.writing import opened, write_answers

UNREAD = 1  # the exit code where some items could not be read
LISTED = 20  # of them, on stderr


def main(argv: Sequence[str]) -> int:
    """Write predictions; return 0, or 1 where some items could not be read.

    Raises:
        UserError: see `load_model`, `find_items` and `opened`; a number out of range.
    """
    options = _parse(argv)
    refuse_below_one(top=options.top, batch=options.batch or 1, threads=options.threads)
    served = load_model(options.model)
    items = chain.from_iterable([find_items(source, served.view, options.split) for source in options.sources])
    count = min(options.top, len(served.task.classes))
    broken: list[str] = []
    total = 0
    with opened(options.out) as (kind, file):
        answers = predict(served, items, options.batch or served.batch, options.threads)
        for answer in write_answers(answers, served.task.classes, count, kind, file):
            total += 1
            if answer.error is not None:
                broken.append(f"{answer.item.name}: {answer.error}")
    where = "" if options.out == kind else f" in {options.out}"
    sys.stderr.write(f"{total - len(broken):,} predictions{where}\n")
    if broken:
        more = [f"  and {len(broken) - LISTED:,} more"] if len(broken) > LISTED else []
        lines = [f"{len(broken):,} of {total:,} could not be read:", *(f"  {line}" for line in broken[:LISTED]), *more]
        sys.stderr.write("\n".join(lines) + "\n")
    return UNREAD if broken else 0


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = Parser("mixdist predict", "Say of images and videos which classes they most likely are of.")
    parser.add_argument("model", type=Path, metavar="MODEL", help="run folder or exported model")
    parser.add_argument(
        "sources", nargs="+", metavar="SOURCE", help="image, video, tar, folder of such, or packed set (folder or URL)"
    )
    parser.add_argument(
        "--out",
        default="csv",
        metavar="csv|jsonl|FILE",
        help="csv or jsonl to stdout, or a file so named (%(default)s)",
    )
    parser.add_argument("--top", type=int, default=1, metavar="K", help="classes of each (%(default)s)")
    parser.add_argument("--split", metavar="NAME", help="of a packed set (all)")
    parser.add_argument("--batch", type=int, metavar="N", help="images of one forward (train.eval_batch of the run)")
    parser.add_argument(
        "--threads", type=int, default=min(8, os.cpu_count() or 1), metavar="N", help="that decode (%(default)s)"
    )
    return parser.parse_args(argv)
