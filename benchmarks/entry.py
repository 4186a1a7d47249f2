"""How each benchmark command starts and ends: a user's mistake is one line and its exit code."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from mixdist.errors import MixdistError


def leave(main: Callable[[Sequence[str]], int]) -> NoReturn:
    """Run a command on this process's arguments, and end the process with its exit code."""
    try:
        sys.exit(main(sys.argv[1:]))
    except MixdistError as error:
        print(f"mixdist: error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
