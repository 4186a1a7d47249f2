"""The `mixdist` command: finds the subcommand's module and calls its `main`; nothing else is imported."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from typing import NamedTuple

from mixdist.arguments import Parser
from mixdist.errors import MixdistError, UserError, nearest
from mixdist.imports import uncollected


class Command(NamedTuple):
    """A subcommand."""

    help: str
    module: str  #: whose ``main(argv) -> int`` runs it


COMMANDS = {
    "pack": Command("turn a folder of images into a packed set", "mixdist.data.commands.pack"),
    "index": Command("index the tars of another webdataset tool in place", "mixdist.data.commands.index"),
    "check": Command("verify a set and say what is in it", "mixdist.data.commands.check"),
    "check engines": Command("hold DDP, DeepSpeed and FSDP against each other on a config", "mixdist.check_engines"),
    "train": Command("train; the same as python -m mixdist.train", "mixdist.train"),
    "doctor": Command("say whether this machine can train", "mixdist.doctor.command"),
    "plan": Command("say what a run will do and take, without training it", "mixdist.planning.command"),
    "export": Command("write the model of a finished run for other programs", "mixdist.serving.commands.export"),
    "predict": Command("classify images, videos and packed sets", "mixdist.serving.commands.predict"),
    "evaluate": Command("measure a model on labelled images", "mixdist.serving.commands.evaluate"),
    "watch": Command("follow a running training from another terminal", "mixdist.tracking.watch"),
    "sync": Command("upload to Weights & Biases what runs kept offline", "mixdist.tracking.sync"),
    "label-budget": Command("train every arm on growing shares of a set's labels", "mixdist.paper.label_budget"),
    "reproduce": Command("train what a table of the paper compares", "mixdist.paper.reproduce"),
    "compare": Command("compare finished runs", "mixdist.report.compare"),
    "reproduce gradient-alignment": Command(
        "cosines between the objectives' gradients, beside the paper", "mixdist.paper.gradient_alignment"
    ),
    "reproduce pass-timing": Command("time the ssl, sl and mix passes, beside the paper", "mixdist.paper.pass_timing"),
}
INTERRUPTED = 130  # what shells report for a command that Ctrl-C ended


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0, 1 (a fault), 2 (the user can put it right) or 130 (Ctrl-C)."""
    try:
        return _run(list(sys.argv[1:] if argv is None else argv))
    except MixdistError as error:
        print(f"mixdist: error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("mixdist: interrupted", file=sys.stderr)
        return INTERRUPTED


def _run(argv: list[str]) -> int:
    for words in (2, 1):  # "check engines" before "check"
        if (name := " ".join(argv[:words])) in COMMANDS:
            with uncollected():
                module = importlib.import_module(COMMANDS[name].module)
            code: int = module.main(argv[words:])
            return code
    if argv and not argv[0].startswith("-"):
        raise UserError(f"unknown command '{argv[0]}'{nearest(argv[0], list(COMMANDS))} ({', '.join(COMMANDS)})")
    parser = _parser()
    parser.parse_args(argv)
    parser.print_help()
    return UserError.exit_code


def _parser() -> Parser:
    """Return the parser of `mixdist` alone, for --help and --version."""
    from mixdist import __version__

    parser = Parser("mixdist", "MixTraining as a distributed toolkit.")
    parser.add_argument("--version", action="version", version=f"mixdist {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", parser_class=type(parser), prog="mixdist")
    for name, command in COMMANDS.items():
        commands.add_parser(name, help=command.help, description=command.help)
    return parser


if __name__ == "__main__":
    sys.exit(main())
