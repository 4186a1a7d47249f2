"""What is to be classified: images, videos, tars and packed sets -> items that are read and fitted when asked for."""

from __future__ import annotations

import mmap
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mixdist.config.data_section import DataConfig
from mixdist.data.decode import decode, fit
from mixdist.data.index import MANIFEST, UNLABELLED, PackedSet, Split
from mixdist.data.open_set import open_set
from mixdist.data.packing.encode import encode, image_type
from mixdist.data.packing.folders import (
    IMAGE_SUFFIXES,
    VIDEO_SUFFIXES,
    Sample,
    entries,
    is_image,
    is_video,
)
from mixdist.data.packing.reencode import Encoding
from mixdist.data.reading.reader import CENTRE, SampleReader
from mixdist.data.remote.node_cache import NodeCache
from mixdist.data.remote.urls import is_remote
from mixdist.data.tar import Member, members
from mixdist.data.video.frames import load_clip
from mixdist.data.video.positions import centre_frame
from mixdist.data.video.probe import probe
from mixdist.errors import DataError, UserError

Pixels = npt.NDArray[np.uint8]
TAR = ".tar"


@dataclass(frozen=True)
class View:
    """How the model sees an item: as evaluation of its run did."""

    size: int  #: pixels of a side
    frames: int  #: of a clip, taken from its middle


@dataclass(frozen=True)
class Item:
    """One image or clip."""

    name: str  #: as the answer calls it
    read: Callable[[], Pixels]  #: uint8 [frames, S, S, 3]; raises OSError, ValueError or DataError
    label: str | None = None  #: the class that it is known to be of


def find_items(source: str, view: View, split: str | None = None) -> Iterator[Item]:
    """Return what a source holds, by name: an image, a video, a tar, a folder of such, or a packed set.

    Below a folder, the name of the first folder is the label. Hidden files are left out, as `mixdist pack` does.

    Args:
        source: path, or the URL of a packed set.
        view: how items are seen.
        split: of a packed set; all of them without it.

    Raises:
        UserError: there is no such thing, or it holds nothing that can be read.
    """
    path = Path(source)
    if is_packed(source):
        packed = open_packed(source)
        splits = list(packed.splits.values()) if split is None else [packed.split(split)]
        return chain.from_iterable(_packed(packed, each, view) for each in splits)
    if split is not None:
        raise UserError(f"--split {split} belongs to a packed set; {source} is none")
    if path.is_dir():
        return _folder(path, view)
    if not path.exists():
        raise UserError(f"{source} does not exist; give an image, a video, a tar, a folder or a packed set")
    return _file(path, view, None)


def is_packed(source: str) -> bool:
    """Tell a packed set, which a URL always names, from files and folders of images."""
    return is_remote(source) or (Path(source) / MANIFEST).is_file()


def open_packed(location: str) -> PackedSet:
    """Open a packed set; a remote one through the cache that training uses. Raises as `open_set`."""
    cache_dir = DataConfig(sl=location).cache_dir.expanduser()
    return open_set(location, NodeCache(cache_dir, None) if is_remote(location) else None)


def _packed(packed: PackedSet, split: Split, view: View) -> Iterator[Item]:
    still, clip = (SampleReader(split, view.size, frames) for frames in (1, view.frames))
    columns = (split.index["key"], split.index["milliseconds"], split.labels)
    for sample, (key, milliseconds, label) in enumerate(zip(*columns, strict=True)):
        name = f"{split.name}/{key.decode('ascii', 'backslashreplace')}"
        shape = (view.frames if milliseconds else 1, view.size, view.size, 3)
        read = partial(_sample, clip if milliseconds else still, sample, shape)
        yield Item(name, read, None if label == UNLABELLED else packed.classes[label])


def _folder(folder: Path, view: View) -> Iterator[Item]:
    """Return the images, videos and tars of a folder and of those below it; there has to be one."""
    left_out: Counter[str] = Counter()
    found = _below(folder, view, None, left_out, ())
    first = next(found, None)
    if first is None:
        others = f" ({', '.join(f'{count} {what}' for what, count in left_out.most_common(5))})" if left_out else ""
        raise UserError(
            f"{folder} holds no image{others}; looked for {' '.join((*IMAGE_SUFFIXES, *VIDEO_SUFFIXES, TAR))}"
        )
    return chain([first], found)


def _below(
    folder: Path, view: View, label: str | None, left_out: Counter[str], above: tuple[str, ...]
) -> Iterator[Item]:
    real = os.path.realpath(folder)
    if real in above:
        raise UserError(f"{folder} is a link to a folder above it; remove the link")
    folders, files = entries(folder)
    for file in files:
        if is_image(file) or is_video(file) or file.endswith(TAR):
            yield from _file(folder / file, view, label)
        else:
            left_out[Path(file).suffix.lower() or "no extension"] += 1
    for name in folders:
        yield from _below(folder / name, view, label or name, left_out, (*above, real))


def _file(path: Path, view: View, label: str | None) -> Iterator[Item]:
    if path.name.endswith(TAR):
        return _tar(path, view, label)
    return iter([Item(str(path), partial(_video if is_video(path.name) else _image, path, view), label)])


def _tar(path: Path, view: View, label: str | None) -> Iterator[Item]:
    """Yield the images and videos of a tar; of one that is damaged, those before the damage and then an item for it."""
    try:
        for member in members(path):
            if is_image(member.name) or is_video(member.name):
                yield Item(f"{path}/{member.name}", partial(_member, path, member, view), label)
    except DataError as error:
        yield Item(str(path), partial(_fail, error), label)


def _fail(error: DataError) -> Pixels:
    raise error


def _sample(reader: SampleReader, sample: int, shape: tuple[int, ...]) -> Pixels:
    out = np.empty((1, *shape), np.uint8)
    unread = reader(np.array([sample]), CENTRE, out)
    if unread:
        raise DataError(unread[0].detail)
    pixels: Pixels = out[0]
    return pixels


def _image(path: Path, view: View) -> Pixels:
    return _still(path.read_bytes(), str(path), view)


def _still(content: bytes, name: str, view: View) -> Pixels:
    if image_type(content) is None:  # a format that packing turns into PNG
        sample = Sample("", UNLABELLED, name, content=lambda: content)
        try:
            return fit(decode(encode(sample, Encoding()).content), view.size)[None]
        except DataError as error:
            raise ValueError(str(error.__cause__)) from error  # without the name, which the answer has
    return fit(decode(content), view.size)[None]


def _video(path: Path, view: View) -> Pixels:
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return _clip(memoryview(mapped), view)


def _clip(content: memoryview | bytes, view: View) -> Pixels:
    clip = probe(content)
    (start,) = centre_frame([clip.frames], view.frames)
    return load_clip(content, int(start), view.frames, view.size, clip.frames)


def _member(path: Path, member: Member, view: View) -> Pixels:
    with path.open("rb") as file:
        file.seek(member.offset)
        content = file.read(member.size)
    return _clip(content, view) if is_video(member.name) else _still(content, f"{path}/{member.name}", view)
