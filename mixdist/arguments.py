"""The argument parser and range checks of every subcommand: a mistake is a UserError, as all others are."""

from __future__ import annotations

import argparse
from typing import NoReturn

from mixdist.errors import UserError


class Parser(argparse.ArgumentParser):
    """argparse without abbreviations; raises mistakes as a ``UserError`` instead of leaving the process."""

    def __init__(self, prog: str, description: str) -> None:
        super().__init__(prog=prog, description=description, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        """Raise what argparse found wrong.

        Raises:
            UserError: always.
        """
        raise UserError(f"{message} (see {self.prog} --help)")


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
