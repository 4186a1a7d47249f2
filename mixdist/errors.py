"""The errors that mixdist raises on purpose: one line each, saying what was wrong, where, and what would be right.

Entry points print such an error without a traceback and leave with its ``exit_code``. Anything else that is
raised is a defect of mixdist and keeps its traceback.
"""

from __future__ import annotations

from difflib import get_close_matches


class MixdistError(Exception):
    """A fault that is not the user's, foreseen and described in one line (exit code 1)."""

    exit_code = 1
    collective = False  #: raised on every rank at the same place, so that rank 0 alone prints it

    def everywhere(self, where: str = "") -> MixdistError:
        """Return this error as the one that all ranks raise together; ``where`` is added to its line."""
        error = type(self)(f"{self}{where}")
        error.collective = True
        return error


class UserError(MixdistError):
    """Something the user can put right: a config value, a path, a data set, a checkpoint (exit code 2)."""

    exit_code = 2


class NotFiniteError(MixdistError):
    """Too many updates in a row whose loss or gradient was not finite (exit code 70)."""

    exit_code = 70


class StoppedError(MixdistError):
    """The run was asked to stop by a signal, and has saved where it stands (exit code 75: start it again)."""

    exit_code = 75


class PeerError(MixdistError):
    """Another rank failed, so that this one cannot go on (exit code 1)."""


class HangError(MixdistError):
    """A rank stands still (exit code 76)."""

    exit_code = 76


class DataError(UserError):
    """A sample, shard or packed set that cannot be used; the message names the file and the key."""


def nearest(name: str, valid: list[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the closest valid name, or an empty string where none is close."""
    close = get_close_matches(name, valid, n=1, cutoff=0.6)
    return f"; did you mean '{close[0]}'?" if close else ""
