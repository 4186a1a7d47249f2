"""What the fields of a manifest may hold: it may come from a stranger, and training takes them as they are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

MAX_SIDE = 2**16 - 1  # pixels, as the index holds them
MAX_NAME = 255  # bytes that file systems take for the name of a file


def check_fields(manifest: dict[str, Any]) -> None:
    """Check the fields that describe the set, that no split is empty, and that all files are named inside the folder.

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
    return isinstance(value, dict) and len(value) > 0 and all(map(_split, value.values()))


def _split(entry: Any) -> bool:
    if not isinstance(entry, dict) or type(entry["samples"]) is not int or entry["samples"] < 1:
        return False
    return all(_file(name) for name in (entry["index"], *(shard["name"] for shard in entry["shards"])))


def _file(name: Any) -> bool:
    """Tell whether a value names a file inside the set's folder, in words that a file system takes."""
    if not isinstance(name, str) or not name.isprintable() or name.startswith("/"):
        return False
    return all(part not in ("", "..") and len(part.encode()) <= MAX_NAME for part in name.split("/"))


_CHECKS: dict[str, Callable[[Any], bool]] = {
    "classes": _classes,
    "mean": _channels,
    "std": _channels,
    "image_size": _image_size,
    "splits": _splits,
}
