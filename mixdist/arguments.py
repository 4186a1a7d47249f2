"""The argument parser of every subcommand: a mistake is a UserError, so that it looks like all others."""

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
