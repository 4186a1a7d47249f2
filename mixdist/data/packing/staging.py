"""A folder that is either whole or absent: written beside its place, moved there when complete."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mixdist.data.index import FORMAT, MANIFEST
from mixdist.errors import UserError


def check_target(out: Path, overwrite: bool) -> None:
    """Refuse a target that holds something, unless it is a packed set and ``overwrite`` allows to replace it.

    Raises:
        UserError: saying what stands there, and what would be right.
    """
    if out.exists() and not out.is_dir():
        raise UserError(f"OUT {out} is a file; give a folder that does not exist")
    if not out.exists() or not any(out.iterdir()):
        return
    if not is_packed_set(out):
        raise UserError(
            f"OUT {out} is not empty and has no {MANIFEST} of a packed set, so even --overwrite leaves it alone; "
            f"give another folder"
        )
    if not overwrite:
        raise UserError(f"OUT {out} holds a packed set; add --overwrite to replace it, or give another folder")


def is_packed_set(folder: Path) -> bool:
    """Tell a packed set by its manifest's content: web pages and extensions have a file of that name too."""
    path = folder / MANIFEST
    if not path.is_file():
        return False
    try:
        manifest = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return False
    return isinstance(manifest, dict) and manifest.get("format") == FORMAT


@contextmanager
def staged(out: Path) -> Iterator[Path]:
    """Give a folder ``OUT.partial`` to fill, which takes the place of ``out`` when the block ends without an error.

    One left over by a killed process is removed first. On any error, ``KeyboardInterrupt`` included, it is removed
    and ``out`` is as it was.

    Raises:
        UserError: the disk refuses (full, read-only, not permitted).
    """
    target = out.resolve()  # a link to a folder stays; the folder it points to is replaced
    partial = target.with_name(target.name + ".partial")
    replaced = target.with_name(target.name + ".partial.replaced")
    try:
        _remove(partial)
        partial.mkdir(parents=True)
        yield partial
        if target.exists():
            _remove(replaced)
            target.rename(replaced)
        partial.rename(target)
    except BaseException as error:
        _remove(partial)
        if replaced.exists() and not target.exists():
            replaced.rename(target)
        if isinstance(error, OSError):
            raise UserError(f"OUT {out} cannot be written: {error}") from error
        raise
    _remove(replaced)


def _remove(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)
