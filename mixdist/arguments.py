"""The argument parser and checks of every subcommand: a mistake is a UserError, as all others are."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from mixdist.errors import UserError, nearest


class Parser(argparse.ArgumentParser):
    """argparse without abbreviations; raises mistakes as a ``UserError`` instead of leaving the process."""

    def __init__(self, prog: str, description: str) -> None:
        super().__init__(prog=prog, description=description, allow_abbrev=False)

    def parse_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> argparse.Namespace:
        """Parse all arguments; an unknown flag is answered with the nearest.

        Raises:
            UserError: see `error`.
        """
        found, unknown = self.parse_known_args(args, namespace)
        if unknown:
            flags = [flag for flag in unknown if flag.startswith("-")]
            hint = nearest(flags[0].partition("=")[0], list(self._option_string_actions)) if flags else ""
            self.error(f"unrecognized arguments: {' '.join(unknown)}{hint}")
        return found

    def error(self, message: str) -> NoReturn:
        """Raise what argparse found wrong.

        Raises:
            UserError: always.
        """
        raise UserError(f"{message} (see {self.prog} --help)")


class OwnOptions(argparse.ArgumentParser):
    """The options of a command that takes all that mixdist train takes besides."""

    def __init__(self, prog: str, help_text: str) -> None:
        super().__init__(prog, allow_abbrev=False, add_help=False, exit_on_error=False)
        self._help_text = help_text

    def split(self, argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
        """Return the command's own options, with their names as ``flags``, and what is left, the settings of a run.

        Where help is asked for, the command's own is printed; that of the settings follows when they are read.

        Raises:
            UserError: a value that an option cannot have.
        """
        try:
            options, rest = self.parse_known_args(argv)
        except argparse.ArgumentError as error:
            raise UserError(f"{self.prog}: {error}") from None
        if {"-h", "--help"} & set(rest):
            sys.stdout.write(self._help_text)
        options.flags = tuple(self._option_string_actions)
        return options, rest


def refuse_seed(seed: int) -> None:
    """Refuse a ``--seed`` that keyed arithmetic cannot take.

    Raises:
        UserError: it is negative, or 2^63 or more.
    """
    if not 0 <= seed < 2**63:
        raise UserError(f"--seed {seed} is out of range; it should be 0 or more, below 2^63")


def refuse_below_one(**options: int) -> None:
    """Refuse numbers below 1; the keywords are the options' names with "_" for "-".

    Raises:
        UserError: naming the first that is.
    """
    for name, value in options.items():
        if value < 1:
            raise UserError(f"--{name.replace('_', '-')} {value} is out of range; it should be 1 or more")


@contextmanager
def written(option: str, path: Path) -> Iterator[None]:
    """Surround the writing of the file that an option names.

    Raises:
        UserError: it cannot be written.
    """
    try:
        yield
    except OSError as error:
        raise UserError(f"{option} {path} cannot be written: {error.strerror}") from error
