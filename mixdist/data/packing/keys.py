"""webdataset keys: the name that all members of one sample share in a shard."""

from __future__ import annotations

import re
from collections.abc import Iterable

OUTSIDE_KEYS = re.compile(r"[^A-Za-z0-9_-]")
OUTSIDE_ASCII = re.compile(r"[^ -~]")  # for tars of other tools, whose own keys should be found again
MAX_KEY = 90  # USTAR names have at most 100 bytes, the extension included


def unique_keys(names: Iterable[str], outside: re.Pattern[str] = OUTSIDE_KEYS) -> list[str]:
    """Turn names into keys of at most ``MAX_KEY`` characters; those that collide get _2, _3, and so on.

    Every character that ``outside`` matches becomes "_"; by default all but [A-Za-z0-9_-], "/" included. Of a
    longer name the end is kept: it holds the file's own name.
    """
    taken: set[str] = set()
    numbers: dict[str, int] = {}  # the last number tried for a key, so that many collisions do not take quadratic time
    keys = []
    for name in names:
        base = key = outside.sub("_", name)[-MAX_KEY:]
        number = numbers.get(base, 1)
        while key in taken:
            number += 1
            suffix = f"_{number}"
            key = base[-(MAX_KEY - len(suffix)) :] + suffix
        numbers[base] = number
        taken.add(key)
        keys.append(key)
    return keys
