"""Nested mappings by dotted name, as settings are written on the command line."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any


def dotted(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the name and value of each leaf, in the order of the mapping; an empty mapping is a leaf."""
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from dotted(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def is_within(name: str, keys: Iterable[str]) -> bool:
    """Say whether a dotted name is one of ``keys``, or below one."""
    return any(f"{name}.".startswith(f"{key}.") for key in keys)
