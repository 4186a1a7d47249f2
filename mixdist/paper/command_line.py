"""What the commands that run grids have in common on their command lines."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from mixdist.config.read import fields
from mixdist.errors import UserError, nearest


def at_dashes(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Cut a command line at the first "--": the command's own words, and the settings of its runs."""
    words = list(argv)
    place = words.index("--") if "--" in words else len(words)
    return words[:place], words[place + 1 :]


def read_settings(words: Sequence[str], refused: Mapping[str, str]) -> dict[str, str]:
    """Read the settings after "--", which every run is given; return them by dotted key.

    Args:
        words: of the command line.
        refused: keys that cannot be given, with the reason.

    Raises:
        UserError: no pairs of key and value, an unknown key, or one that is refused.
    """
    found: dict[str, str] = {}
    known = [key for key, _ in fields()]
    rest = list(words)
    while rest:
        key, sign, value = rest.pop(0).partition("=")
        if not key.startswith("--") or (not sign and not rest):
            raise UserError(f"after --, settings are given as --section.key VALUE; {key} is none")
        name = key.removeprefix("--")
        if name not in known:
            raise UserError(f"after --, {key} is no setting of a run{nearest(name, known)}")
        if name in refused:
            raise UserError(f"after --, --{name} cannot be given: {refused[name]}")
        found[name] = value if sign else rest.pop(0)
    return found


def refuse_seeds(seeds: Sequence[int]) -> None:
    """Refuse seeds that no run takes.

    Raises:
        UserError: one is out of range, or named twice.
    """
    for seed in seeds:
        if not 0 <= seed < 2**31:
            raise UserError(f"--seeds {seed} is out of range; each should be 0 or more, below 2^31")
    refuse_twice("--seeds", seeds)


def refuse_twice(option: str, values: Sequence[object]) -> None:
    """Refuse a value that is given twice, which would be the same run.

    Raises:
        UserError: naming the option.
    """
    if len(set(values)) < len(values):
        raise UserError(f"{option} {' '.join(map(str, values))} names one twice; leave it out")


def part(text: str) -> tuple[int, int]:
    """Read ``--part``: "2/8", the second of eight.

    Raises:
        UserError: it is no such pair.
    """
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    if found is None or not 1 <= int(found[1]) <= int(found[2]):
        raise UserError(f"--part {text} should be K/N with K from 1 to N, as in 2/8")
    return int(found[1]), int(found[2])
