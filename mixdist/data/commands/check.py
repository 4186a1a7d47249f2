"""`mixdist check SET`: read its arguments, check, print the table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mixdist.arguments import Parser
from mixdist.data.checking.check import DECODED, CheckOptions, check_set
from mixdist.data.checking.summary import print_report
from mixdist.data.packing.summary import plain_or_terminal
from mixdist.data.remote.own_cache import CACHE_DIR, own_cache
from mixdist.errors import UserError


def main(argv: Sequence[str]) -> int:
    """Check what the command line names; return 0, or 2 where something is damaged.

    Raises:
        UserError: see `check_set`.
    """
    arguments = vars(_parser().parse_args(argv))
    location, strict, cache_dir = (arguments.pop(name) for name in ("location", "strict", "cache_dir"))
    arguments["decode"] = _decode(arguments["decode"])
    if arguments["workers"] is None:
        del arguments["workers"]
    with own_cache(location, cache_dir) as cache:
        report = check_set(location, CheckOptions(**arguments), cache)
    print_report(report, plain_or_terminal())
    return UserError.exit_code if report.damaged or (strict and report.warnings) else 0


def _decode(text: str) -> int | None:
    """Return how many images to decode, None for all."""
    if text in ("all", "none"):
        return None if text == "all" else 0
    if not (text.isascii() and text.isdigit()):
        raise UserError(f"--decode {text} is not a number; give one, or all, or none")
    return int(text)


def _parser() -> Parser:
    parser = Parser("mixdist check", "Verify a set, and say what training on it will meet (docs/data.md).")
    parser.add_argument("location", metavar="SET", help="a packed or indexed set, a folder or URL")
    add = parser.add_argument
    add("--decode", default=str(DECODED), metavar="N", help="images of a split to decode, all or none (default: 1000)")
    add("--batch", type=int, default=256, metavar="N", help="batch whose mixture is foretold (default: %(default)s)")
    add(
        "--shards-at-once",
        type=int,
        default=8,
        metavar="K",
        help="the same for K shards at a time (default: %(default)s)",
    )
    add("--seed", type=int, default=0, metavar="N", help="decides which images are decoded (default: %(default)s)")
    add("--workers", type=int, metavar="N", help="threads that read and decode (default: the number of cores)")
    add(
        "--cache-dir",
        type=Path,
        default=CACHE_DIR,
        metavar="DIR",
        help="on a local disk: shards of a remote set pass through it, one at a time (default: %(default)s)",
    )
    add("--strict", action="store_true", help="end with exit code 2 on warnings too")
    return parser
