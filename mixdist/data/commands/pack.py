"""`mixdist pack SOURCE OUT`: read its arguments, pack, print the summary."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from mixdist.arguments import Parser
from mixdist.data.packing.division import PackOptions
from mixdist.data.packing.pack import pack
from mixdist.data.packing.summary import print_summary
from mixdist.data.packing.videos import CLIPS, FPS, FRAMES, VideoOptions


def main(argv: Sequence[str]) -> int:
    """Pack what the command line names; return the exit code.

    Raises:
        UserError: see `pack`.
    """
    arguments = _parser().parse_args(argv)
    options = PackOptions(
        test_fraction=arguments.test_fraction,
        labelled_fraction=arguments.labelled_fraction,
        shard_size=arguments.shard_size,
        seed=arguments.seed,
        overwrite=arguments.overwrite,
        video=VideoOptions(arguments.video, arguments.fps),
        **({} if arguments.workers is None else {"workers": arguments.workers}),
    )
    print_summary(pack(arguments.source, arguments.out, options), arguments.out, Console())
    return 0


def _parser() -> Parser:
    parser = Parser("mixdist pack", "Turn a folder of images into a packed set (docs/data.md).")
    parser.add_argument("source", metavar="SOURCE", help="a folder of images (docs/data.md), or the word: digits")
    parser.add_argument("out", metavar="OUT", type=Path, help="folder to write the packed set to")
    add = parser.add_argument
    add("--test-fraction", type=float, metavar="F", help="share of each class moved to the test split (default: 0.2)")
    add("--labelled-fraction", type=float, default=1.0, metavar="F", help="share of train that keeps its label")
    add("--shard-size", type=int, default=10_000, metavar="N", help="samples a shard (default: %(default)s)")
    add("--seed", type=int, default=0, metavar="N", help="decides all shares and the order (default: %(default)s)")
    add("--workers", type=int, metavar="N", help="threads that decode (default: the number of cores)")
    add("--video", choices=(FRAMES, CLIPS), help="pack videos as images or as clips (default: leave them out)")
    add("--fps", type=float, metavar="F", help=f"images taken of each second of a video (default: {FPS:g})")
    add("--overwrite", action="store_true", help="replace OUT if it is a packed set")
    return parser
