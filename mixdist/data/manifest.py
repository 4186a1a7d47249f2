"""What the fields of a manifest may hold: it may come from a stranger, and training takes them as they are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

MAX_SIDE = 2**16 - 1  # pixels, as the index holds them


def check_fields(manifest: dict[str, Any]) -> None:
    """Check the fields that describe the set as a whole, and that no split is empty.

    Raises:
        KeyError: a field is missing.
        TypeError: a field is malformed; the error is its name in quotes, as that of a ``KeyError``.
    """
    for name, fits in _CHECKS.items():
        if not fits(manifest[name]):
            raise TypeError(f"'{name}'")


def _classes(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value) and len(set(value)) == len(value)


def _channels(value: Any) -> bool:
    """Tell whether a value is three numbers of 0 to 1, not-a-number excluded."""
    return isinstance(value, list) and len(value) == 3 and all(type(n) in (int, float) and 0 <= n <= 1 for n in value)


def _image_size(value: Any) -> bool:
    if value is None:
        return True
    return isinstance(value, list) and len(value) == 2 and all(type(n) is int and 0 < n <= MAX_SIDE for n in value)


def _splits(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    return all(
        isinstance(entry, dict) and type(entry["samples"]) is int and entry["samples"] > 0 for entry in value.values()
    )


_CHECKS: dict[str, Callable[[Any], bool]] = {
    "classes": _classes,
    "mean": _channels,
    "std": _channels,
    "image_size": _image_size,
    "splits": _splits,
}
