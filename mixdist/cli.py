"""The `mixdist` command: reads the command line and calls the room that does the work."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import NoReturn

from mixdist.errors import MixdistError, UserError, nearest

COMMANDS = {
    "pack": "turn a folder of images into a packed set",
    "train": "train; the same as python -m mixdist.train",
    "compare": "compare finished runs",
}
INTERRUPTED = 130  # what shells report for a command that Ctrl-C ended


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit code: 0, 1 (a fault), 2 (the user can put it right) or 130 (Ctrl-C)."""
    try:
        return _run(sys.argv[1:] if argv is None else argv)
    except MixdistError as error:
        print(f"mixdist: error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("mixdist: interrupted", file=sys.stderr)
        return INTERRUPTED


def _run(argv: list[str]) -> int:
    if argv and not argv[0].startswith("-") and argv[0] not in COMMANDS:
        raise UserError(f"unknown command '{argv[0]}'{nearest(argv[0], list(COMMANDS))} ({', '.join(COMMANDS)})")
    if argv[:1] == ["train"]:
        from mixdist.train import main as train

        return train(argv[1:])
    if argv[:1] == ["compare"]:
        from mixdist.report.compare import main as compare

        return compare(argv[1:])
    parser = _parser()
    arguments = parser.parse_args(argv)
    if arguments.command is None:
        parser.print_help()
        return UserError.exit_code
    return _pack(arguments)


class _Parser(argparse.ArgumentParser):
    """Raises mistakes as a ``UserError``, so that they look like all others."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (see {self.prog} --help)")


def _parser() -> argparse.ArgumentParser:
    from mixdist import __version__

    parser = _Parser(prog="mixdist", description="MixTraining as a distributed toolkit.", allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"mixdist {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    parsers = {
        name: commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        for name, text in COMMANDS.items()
    }
    _add_pack_arguments(parsers["pack"])
    return parser


def _add_pack_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="SOURCE", help="a folder of images (docs/data.md), or the word: digits")
    parser.add_argument("out", metavar="OUT", type=Path, help="folder to write the packed set to")
    add = parser.add_argument
    add("--test-fraction", type=float, metavar="F", help="share of each class moved to the test split (default: 0.2)")
    add("--labelled-fraction", type=float, default=1.0, metavar="F", help="share of train that keeps its label")
    add("--shard-size", type=int, default=10_000, metavar="N", help="samples a shard (default: %(default)s)")
    add("--seed", type=int, default=0, metavar="N", help="decides all shares and the order (default: %(default)s)")
    add("--workers", type=int, metavar="N", help="threads that decode (default: the number of cores)")
    add("--overwrite", action="store_true", help="replace OUT if it is a packed set")


def _pack(arguments: argparse.Namespace) -> int:
    from rich.console import Console

    from mixdist.data.division import PackOptions
    from mixdist.data.pack import pack
    from mixdist.data.summary import print_summary

    options = PackOptions(
        test_fraction=arguments.test_fraction,
        labelled_fraction=arguments.labelled_fraction,
        shard_size=arguments.shard_size,
        seed=arguments.seed,
        overwrite=arguments.overwrite,
        **({} if arguments.workers is None else {"workers": arguments.workers}),
    )
    print_summary(pack(arguments.source, arguments.out, options), arguments.out, Console())
    return 0
