"""`mixdist index DIR`: read its arguments, index, print the summary."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mixdist.arguments import Parser
from mixdist.data.indexing.build import index_tars
from mixdist.data.indexing.options import IndexOptions
from mixdist.data.indexing.summary import print_summary
from mixdist.data.packing.summary import plain_or_terminal


def main(argv: Sequence[str]) -> int:
    """Index what the command line names; return the exit code.

    Raises:
        UserError: see `index_tars`.
    """
    arguments = vars(_parser().parse_args(argv))
    folder = arguments.pop("folder")
    if arguments["workers"] is None:
        del arguments["workers"]
    manifest, tally = index_tars(folder, IndexOptions(**arguments))
    print_summary(folder, manifest, tally, plain_or_terminal())
    return 0


def _parser() -> Parser:
    parser = Parser(
        "mixdist index", "Index the tars of any webdataset tool, to train from them in place (docs/data.md)."
    )
    parser.add_argument("folder", metavar="DIR", type=Path, help="folder with the tars; the index is written into it")
    add = parser.add_argument
    add("--train", metavar="GLOB", help="tars of the train split (default: all that are not for testing)")
    add("--test", metavar="GLOB", help="tars of the test split (default: by the words test, val, valid, validation)")
    add("--test-fraction", type=float, metavar="F", help="share of each class of train that forms the test split")
    add("--seed", type=int, default=0, metavar="N", help="decides that share (default: %(default)s)")
    add("--image", metavar="EXT", help="which image or clip to take where samples hold several, such as left.png")
    add("--label-field", metavar="NAME", help="labels are this field of the .json members, such as annotation.class")
    add("--label-text", action="store_true", help="labels are the text of the .txt members")
    add("--classes", type=Path, metavar="FILE", help="class names, one a line, in the order of the class numbers")
    add("--rename-doubled", action="store_true", help="number the keys that several shards share, instead of refusing")
    add("--skip-bad", action="store_true", help="leave out bad samples and print how many, instead of refusing")
    add("--workers", type=int, metavar="N", help="threads that decode (default: the number of cores)")
    add("--overwrite", action="store_true", help="replace an index that this command made")
    return parser
