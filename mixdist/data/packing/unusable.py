"""Samples of a source that cannot be used: all of them in one refusal, or left out with ``--skip-bad`` and listed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NoReturn, TypeVar

from mixdist.data.faults import SHOWN, Fault, counted
from mixdist.data.packing.folders import Sample
from mixdist.errors import DataError

ADVICE = "; repair or remove it"  # what the message of a single one ends with
UNREADABLE, UNUSABLE = "unreadable file", "unusable row"  # reasons that they are counted by

Result = TypeVar("Result")


def or_fault(function: Callable[[Sample], Result], sample: Sample) -> Result | Fault:
    """Apply a function to a sample; where the sample cannot be read, return what is wrong with it."""
    try:
        return function(sample)
    except DataError as error:
        return Fault(UNREADABLE, sample.path, str(error))


def listed(faults: Sequence[Fault]) -> list[str]:
    """Return a line for each of the first faults, and one that says how many more there are."""
    lines = [fault.message.removesuffix(ADVICE) for fault in faults[:SHOWN]]
    return lines + ([f"and {len(faults) - SHOWN:,} more"] if len(faults) > SHOWN else [])


def refuse(source: str, faults: Sequence[Fault]) -> None:
    """Raise where there are faults, with all of them as far as a screen shows them.

    Raises:
        DataError: always, but for no faults; a line for one, and else a line more for each of the first.
    """
    if len(faults) == 1:
        message = faults[0].message
        raise DataError(f"{message}{' ' if message.endswith('?') else '; '}--skip-bad leaves it out")
    if faults:
        lines = "\n  ".join(listed(faults))
        raise DataError(
            f"{source} holds {len(faults):,} bad samples ({counted(faults)}); repair or remove them, or leave them "
            f"out with --skip-bad:\n  {lines}"
        )


def refuse_emptied(source: str, what: str, faults: Sequence[Fault]) -> NoReturn:
    """Raise because nothing is left of a split or of a class.

    Raises:
        DataError: always, with the first fault.
    """
    first = f"; the first was left out because: {faults[0].message.removesuffix(ADVICE)}" if faults else ""
    raise DataError(f"{source} holds no usable sample {what}{first}")
