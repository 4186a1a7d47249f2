"""`mixdist pack SOURCE OUT`: read its arguments, pack, print the summary."""

from __future__ import annotations

from argparse import ArgumentTypeError
from collections.abc import Sequence
from pathlib import Path

from pydantic import ByteSize, TypeAdapter, ValidationError
from rich.console import Console

from mixdist.arguments import Parser
from mixdist.data.packing.division import PackOptions
from mixdist.data.packing.pack import pack
from mixdist.data.packing.reading import Reading
from mixdist.data.packing.reencode import QUALITY, Encoding
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
        shard_bytes=arguments.shard_bytes,
        seed=arguments.seed,
        overwrite=arguments.overwrite,
        reading=Reading(
            arguments.root, arguments.path_column, arguments.label_column, arguments.download, arguments.skip_bad
        ),
        encoding=Encoding(arguments.resize, arguments.quality, arguments.keep_bytes),
        video=VideoOptions(arguments.video, arguments.fps),
        **({} if arguments.workers is None else {"workers": arguments.workers}),
    )
    print_summary(pack(arguments.source, arguments.out, options), arguments.out, Console())
    return 0


def _parser() -> Parser:
    parser = Parser("mixdist pack", "Turn a folder or table of images into a packed set (docs/data.md).")
    parser.add_argument(
        "source",
        metavar="SOURCE",
        help="a folder of images, a .csv, .tsv or .parquet table, torchvision:NAME, or: digits",
    )
    parser.add_argument("out", metavar="OUT", type=Path, help="folder to write the packed set to")
    _add_reading(parser)
    _add_encoding(parser)
    add = parser.add_argument
    add("--test-fraction", type=float, metavar="F", help="share of each class moved to the test split (default: 0.2)")
    add("--labelled-fraction", type=float, default=1.0, metavar="F", help="share of train that keeps its label")
    add("--shard-size", type=int, default=10_000, metavar="N", help="samples a shard (default: %(default)s)")
    add("--shard-bytes", type=_bytes, metavar="SIZE", help="bytes a shard, as in 64MB (default: no limit)")
    add("--seed", type=int, default=0, metavar="N", help="decides all shares and the order (default: %(default)s)")
    add("--workers", type=int, metavar="N", help="threads that decode (default: the number of cores)")
    add("--video", choices=(FRAMES, CLIPS), help="pack videos as images or as clips (default: leave them out)")
    add("--fps", type=float, metavar="F", help=f"images taken of each second of a video (default: {FPS:g})")
    add("--skip-bad", action="store_true", help="leave out bad samples and list them, instead of refusing")
    add("--overwrite", action="store_true", help="replace OUT if it is a packed set")
    return parser


def _add_reading(parser: Parser) -> None:
    add = parser.add_argument
    add(
        "--root", type=Path, metavar="DIR", help="where a table's images (default: its folder) or a torchvision set lie"
    )
    add("--path-column", metavar="NAME", help="a table's column of paths (default: path)")
    add("--label-column", metavar="NAME", help="a table's column of class names (default: label)")
    add("--download", action="store_true", help="let torchvision download what --root lacks")


def _add_encoding(parser: Parser) -> None:
    add = parser.add_argument
    add("--resize", type=int, metavar="N", help="scale larger images down to a shorter side of N pixels")
    add("--quality", type=int, metavar="Q", help=f"store every image as JPEG of quality Q (--resize alone: {QUALITY})")
    add("--keep-bytes", action="store_true", help="store JPEG, PNG and WebP files as they are (the default)")


def _bytes(text: str) -> int:
    """Read a size as people write it: 64MB, 64 MiB, 1.5GB or a number of bytes."""
    try:
        return int(TypeAdapter(ByteSize).validate_python(text))
    except ValidationError as error:
        raise ArgumentTypeError(f"'{text}' is not a size such as 64MB, 64MiB or 1.5GB") from error
