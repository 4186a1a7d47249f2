"""Walk a folder for images: what counts as one, its sidecar, and what is left out."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from mixdist.errors import UserError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm")
TEST_NAMES = ("test", "val", "valid", "validation")  # of folders, and of a table's splits, that become "test"
VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".webm", ".mkv", ".avi")


@dataclass(frozen=True, slots=True)
class Sample:
    """One image of a source, not read yet."""

    key: str  #: path below the split's folder, without suffix; ``read_source`` makes a valid, unique key of it
    label: int  #: class number, or -1
    path: str  #: the file, or what to call the image in a message
    metadata: str | None = None  #: the .json file beside the image
    content: Callable[[], bytes] | None = None  #: makes the encoded image where no file holds it
    origin: str = ""  #: what a message begins with: the table's line that names the image
    video: str | None = None  #: the video file that it is, or that it is a frame of


def entries(folder: Path) -> tuple[list[str], list[str]]:
    """Return the names of the sub-folders and of the files of a folder, sorted; hidden ones are left out.

    Symbolic links count as what they point to.

    Raises:
        UserError: the folder cannot be read.
    """
    folders: list[str] = []
    files: list[str] = []
    try:
        with os.scandir(folder) as found:
            for entry in found:
                if not entry.name.startswith("."):
                    (folders if entry.is_dir() else files).append(entry.name)
    except OSError as error:
        raise UserError(f"{folder} cannot be read: {error.strerror}") from error
    return sorted(folders), sorted(files)


def is_image(file: str) -> bool:
    """Tell by its extension whether a file is taken for an image."""
    return os.path.splitext(file)[1].lower() in IMAGE_SUFFIXES  # noqa: PTH122 (a million names: Path is 10x slower)


def is_video(file: str) -> bool:
    """Tell by its extension whether a file is taken for a video."""
    return os.path.splitext(file)[1].lower() in VIDEO_SUFFIXES  # noqa: PTH122


def leave_out(files: list[str], left_out: Counter[str]) -> None:
    """Count files that are no samples by their extension, for the closing summary."""
    left_out.update(Path(file).suffix.lower() or "no extension" for file in files)


def find_images(
    folder: Path, label: int, left_out: Counter[str], name: str = "", above: tuple[str, ...] = ()
) -> Iterator[Sample]:
    """Yield the images and videos of a folder and of all folders below it, by name.

    Args:
        folder: where to look; links are followed.
        label: class number of all of them.
        left_out: counts the other files by extension.
        name: what the samples' names begin with, with a closing "/" if not empty.
        above: the real paths of the folders that led here.

    Raises:
        UserError: a folder cannot be read, or a link leads back to a folder above it.
    """
    real = os.path.realpath(folder)
    if real in above:
        raise UserError(f"{folder} is a link to a folder above it; remove the link")
    folders, files = entries(folder)
    images = [file for file in files if is_image(file) or is_video(file)]
    stems = [Path(file).stem for file in images]
    sidecars = {Path(file).stem: file for file in files if file.lower().endswith(".json")}
    for file, stem in zip(images, stems, strict=True):
        metadata = str(folder / sidecars[stem]) if stem in sidecars else None
        path = str(folder / file)
        yield Sample(f"{name}{stem}", label, path, metadata, video=path if is_video(file) else None)
    used = {*images, *(sidecars[stem] for stem in stems if stem in sidecars)}
    leave_out([file for file in files if file not in used], left_out)
    for below in folders:
        yield from find_images(folder / below, label, left_out, f"{name}{below}/", (*above, real))
