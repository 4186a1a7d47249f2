"""What the fields of a manifest may hold: it may come from a stranger, and training takes them as they are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mixdist.errors import DataError

MAX_SIDE = 2**16 - 1  # pixels, as the index holds them
MAX_NAME = 255  # bytes that file systems take for the name of a file


def check_fields(manifest: dict[str, Any]) -> None:
    """Check the fields that describe the set, and that no split is empty.

    Raises:
        KeyError: a field is missing.
        TypeError: a field is malformed; the error is its name in quotes, as that of a ``KeyError``.
    """
    for name, fits in _CHECKS.items():
        if not fits(manifest[name]):
            raise TypeError(f"'{name}'")


def inside(name: Any) -> str:
    """Return the name of a file of the set, in words that a file system takes.

    Raises:
        DataError: it is no such name, or leads out of the set's folder.
    """
    parts = name.split("/") if isinstance(name, str) and name.isprintable() else [""]
    if any(part in ("", "..") or len(part.encode()) > MAX_NAME for part in parts):
        raise DataError(
            f"the manifest names the file {str(name)[:80]!r}, which is not inside the set; pack the set again"
        )
    return str(name)


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
    return isinstance(value, dict) and len(value) > 0 and all(map(_split, value.values()))


def _split(entry: Any) -> bool:
    return isinstance(entry, dict) and type(entry["samples"]) is int and entry["samples"] >= 1


_CHECKS: dict[str, Callable[[Any], bool]] = {
    "classes": _classes,
    "mean": _channels,
    "std": _channels,
    "image_size": _image_size,
    "splits": _splits,
}
