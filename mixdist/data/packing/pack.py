"""`mixdist pack`: a folder or table of images, or a data set by name -> a packed set that training reads."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from mixdist.data.faults import Fault
from mixdist.data.index import FORMAT, MANIFEST, VERSION
from mixdist.data.packing.division import PackOptions, divide, share_for_test
from mixdist.data.packing.encode import Encoded
from mixdist.data.packing.folders import Sample
from mixdist.data.packing.measure import Measure
from mixdist.data.packing.shards import Limits, Member, write_split
from mixdist.data.packing.sources import Source, is_place, read_source
from mixdist.data.packing.staging import check_target, staged
from mixdist.data.packing.unusable import or_fault, refuse, refuse_emptied
from mixdist.data.packing.videos import encode_sample, without_videos
from mixdist.errors import UserError
from mixdist.files import write_json

AHEAD = 4  # images in flight per worker: enough that none waits, few enough to hold in memory

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Packed:
    """What was packed, for the closing summary."""

    manifest: dict[str, Any]
    left_out: Counter[str]  #: files that are no images, by extension
    faults: tuple[Fault, ...]  #: samples left out by ``skip_bad``
    turned: int  #: images with an EXIF orientation, which training does not apply


def pack(source: str, out: Path, options: PackOptions) -> Packed:
    """Pack a source (a folder, a table, "torchvision:NAME" or "digits") into the folder ``out``.

    docs/data.md states the sources and the format. The same source and options give the same bytes.

    Raises:
        UserError: the source, an option or ``out`` cannot be used.
        DataError: an image or a .json file cannot be read, without ``skip_bad``, or a class has no other.
    """
    options.check()
    options.video.check(source)
    check_target(out, options.overwrite)
    _refuse_overlap(source, options.reading.root, out)
    listed = read_source(source, options.reading)
    with (
        progress_bar("packing") as progress,
        without_videos(listed, options.video, out, options.workers, progress) as found,
    ):
        bad = list(found.faults)
        if not options.reading.skip_bad:
            refuse(found.name, bad)
        splits = divide(found, options)
        with staged(out) as folder:
            return _write(folder, found, splits, options, progress, bad)


def _write(
    folder: Path,
    source: Source,
    splits: dict[str, list[Sample]],
    options: PackOptions,
    progress: Progress,
    bad: list[Fault],
) -> Packed:
    """Write shards, indexes and, where nothing bad stands against it, the manifest; what is bad comes after ``bad``."""
    measures, entries = {}, {}
    for name, samples in splits.items():
        measures[name] = Measure()
        with closing(_encoded(samples, options)) as images:
            limits = Limits(options.shard_size, options.shard_bytes)
            shown = progress.track(images, total=len(samples), description=name)
            members = _members(samples, shown, measures[name], bad)
            first = next(members, None)
            if first is not None:
                entries[name] = write_split(folder, name, chain([first], members), limits, source.classes)
    if not options.reading.skip_bad:
        refuse(source.name, bad)
    _refuse_emptied(source, splits, entries, bad)
    options_used = {
        "test_fraction": share_for_test(source, options),
        "labelled_fraction": options.labelled_fraction,
        "shard_size": options.shard_size,
        "shard_bytes": options.shard_bytes,
        "resize": options.encoding.resize,
        "quality": options.encoding.quality,
        "path_column": options.reading.path_column,
        "label_column": options.reading.label_column,
        "video": options.video.kept,
        "fps": options.video.rate,
        "skip_bad": options.reading.skip_bad,
        "seed": options.seed,
    }
    named = {"kind": source.kind, "name": source.name}
    manifest = write_manifest(folder, source.classes, measures, entries, named, options_used)
    return Packed(manifest, source.left_out, tuple(bad), sum(measure.turned for measure in measures.values()))


def write_manifest(
    folder: Path,
    classes: tuple[str, ...],
    measures: dict[str, Measure],
    entries: dict[str, dict[str, Any]],
    source: dict[str, Any],
    options: dict[str, Any],
) -> dict[str, Any]:
    """Write and return the manifest of a set whose shards and indexes are complete; the arguments are its fields."""
    sizes = set().union(*(measure.sizes for measure in measures.values()))
    manifest = {
        "format": FORMAT,
        "version": VERSION,
        "classes": list(classes),
        "mean": measures["train"].mean,
        "std": measures["train"].std,
        "image_size": list(sizes.pop()) if len(sizes) == 1 else None,
        "splits": entries,
        "source": source,
        "options": options,
    }
    write_json(folder / MANIFEST, manifest)  # last: a folder without it is not a set
    return manifest


def _encoded(samples: list[Sample], options: PackOptions) -> Generator[Encoded | Fault]:
    """Encode samples in their order, a bounded number ahead; one that cannot be read becomes a fault."""
    return in_order(partial(or_fault, partial(encode_sample, encoding=options.encoding)), samples, options.workers)


def _members(
    samples: list[Sample], images: Iterable[Encoded | Fault], measure: Measure, bad: list[Fault]
) -> Iterator[Member]:
    for sample, image in zip(samples, images, strict=True):
        if isinstance(image, Fault):
            bad.append(image)
        else:
            measure.add(image)
            yield Member(sample.key, sample.label, image)


def _refuse_emptied(
    source: Source, splits: dict[str, list[Sample]], entries: dict[str, dict[str, Any]], bad: list[Fault]
) -> None:
    """Refuse a split of which nothing was left, and a class that lost its last labelled train image."""
    for name in splits:
        if name not in entries:
            refuse_emptied(source.name, f"for {name}", bad)
    for name, left in entries["train"]["per_class"].items():
        if bad and not left:
            refuse_emptied(source.name, f"of class {name} for train", bad)


def in_order(function: Callable[[Item], Result], items: Iterable[Item], workers: int) -> Generator[Result]:
    """Apply a function in threads (decoding releases the GIL), a bounded number of items ahead, in the items' order."""
    pool = ThreadPoolExecutor(workers)
    pending: deque[Future[Result]] = deque()
    try:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) >= AHEAD * workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def progress_bar(doing: str) -> Progress:
    """Return a bar on stderr where that is a terminal, and nothing elsewhere."""
    console = Console(stderr=True)
    columns = (TextColumn(f"{doing} {{task.description}}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(
        *columns, TextColumn("left"), TimeRemainingColumn(), console=console, disable=not console.is_terminal
    )


def _refuse_overlap(source: str, root: Path | None, out: Path) -> None:
    target = out.resolve()
    place = Path(source).resolve()
    if is_place(source) and (target.is_relative_to(place) or place.is_relative_to(target)):
        raise UserError(f"SOURCE {source} and OUT {out} lie in one another; give an OUT outside SOURCE")
    if root is not None and root.resolve().is_relative_to(target):  # OUT below it is fine: a table names its images
        raise UserError(f"--root {root} lies in OUT {out}; give another OUT")
