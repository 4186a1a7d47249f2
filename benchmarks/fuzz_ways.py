"""Further ways into the data room that a share of the fuzz's cases takes: packing, tars without an index, the pool."""

from __future__ import annotations

import csv
import random
from pathlib import Path

import numpy as np

from benchmarks.fuzz_corpus import COUNTED, DELIVERED, Case
from mixdist.data.bad import BadSamples
from mixdist.data.cache import Access
from mixdist.data.images import DirectImages, PooledImages
from mixdist.data.index import PackedSet, Split
from mixdist.data.open_set import open_set
from mixdist.data.packing.division import PackOptions
from mixdist.data.packing.folders import is_image, is_video
from mixdist.data.packing.pack import pack
from mixdist.data.packing.videos import CLIPS, FRAMES, VideoOptions
from mixdist.data.reading.reader import CENTRE
from mixdist.data.remote.node_cache import NodeCache
from mixdist.data.tar import members
from mixdist.data.tars import DrawnImages, Tars
from mixdist.errors import DataError, UserError
from mixdist.world import World

PACK, DRAW, POOL = "pack", "draw", "pool"
SHARES = {PACK: 0.15, DRAW: 0.25, POOL: 0.03}  # of all cases; a pool starts a process
DRAWN = 6  # images: all of most cases, and one again


class UnaccountedError(Exception):
    """A sample is lost, or the outcome is not what the case allows."""


def ways_of(number: int, seed: int) -> list[str]:
    """Return the further ways that a case takes."""
    rng = random.Random(f"{seed}/{number}/ways")
    return [way for way, share in SHARES.items() if rng.random() < share]


def pack_members(folder: Path, work: Path, rng: random.Random, case: Case, size: int) -> str:
    """Pack the members of a case's tars as class folders, or as a table that lists them; return what came of it."""
    files = _unpack(folder, work / "source", rng)
    source, kept = work / "source", rng.choice((CLIPS, CLIPS, FRAMES, None))
    if rng.random() < 0.5:
        source = _table(work / "table.csv", files)
    options = PackOptions(test_fraction=rng.choice((0.0, 0.3)), video=VideoOptions(kept), workers=1)
    try:
        manifest = pack(str(source), work / "out", options).manifest
    except UserError as error:
        left = [path.name for path in work.glob("out*")]
        if left:
            raise UnaccountedError(f"a refused pack left {left} behind") from error
        return str(error)
    splits = manifest["splits"].values()
    media = sum(is_image(path.name) or (is_video(path.name) and kept is not None) for path in files)
    if sum(entry["samples"] for entry in splits) != media and kept != FRAMES:
        raise UnaccountedError(f"{media} images and clips became {[entry['samples'] for entry in splits]} samples")
    if case.bait is not None and kept is not None:
        raise UnaccountedError("a playlist was packed as a clip")
    for split in open_set(work / "out").splits.values():
        unread = DirectImages(split, size).ask(np.arange(len(split.index)), CENTRE).wait().unread
        if unread:
            raise UnaccountedError(f"packing let pass what cannot be read: {unread[0]}")
    return "packed"


def _unpack(folder: Path, source: Path, rng: random.Random) -> list[Path]:
    """Write the members of all tars into two class folders, under their own names as far as a file can have them."""
    found: list[Path] = []
    for tar in sorted(folder.rglob("*.tar")):
        try:
            for member in members(tar):
                name = member.name[-60:].replace("/", "_").replace("\0", "_")
                path = source / rng.choice("ab") / f"{len(found)}-{name}"
                path.parent.mkdir(parents=True, exist_ok=True)
                with tar.open("rb") as file:
                    file.seek(member.offset)
                    path.write_bytes(file.read(member.size))
                found.append(path)
        except DataError:
            continue
    return found


def _table(path: Path, files: list[Path]) -> Path:
    media = [file for file in files if is_image(file.name) or is_video(file.name)]
    with path.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        csv.writer(file).writerows([("path", "label"), *((str(each), each.parent.name) for each in media)])
    return path


def draw(folder: Path, work: Path, case: Case, size: int, alone: World) -> str:
    """Draw images from the tars as D_ssl without an index does; return what came of it."""
    urls = sorted(str(path) for path in folder.rglob("*.tar"))
    tars = Tars("the tars", tuple(urls), NodeCache(work / "cache", None), DRAWN, (0.5,) * 3, (0.5,) * 3)
    bad = BadSamples("skip", 1000, 1000, None)
    try:
        images = DrawnImages(tars, size, 0, 1, bad, alone).ask(np.arange(DRAWN), 0).wait().images
    except UserError as error:
        if case.allowed == (DELIVERED,):
            raise UnaccountedError(f"whole tars cannot be drawn from: {error}") from error
        return str(error)
    if images.shape != (DRAWN, size, size, 3):
        raise UnaccountedError(f"images of shape {tuple(images.shape)} were drawn")
    bad.agree(alone)
    return COUNTED if bad.found else DELIVERED


def pooled(packed: PackedSet, split: Split, size: int, alone: World) -> tuple[int, int]:
    """Read every sample by a worker process; return how many came, and how many could not be read."""
    rows = len(split.index)
    access = Access(
        size=size,
        frames=1,
        seed=0,
        cache="none",
        folder=packed.folder,
        limit_bytes=None,
        workers=1,
        batch=rows,
        asks=1,
        ahead=0,
        world=alone,
        alive=lambda: None,
    )
    pool = PooledImages(access.setup(packed, split, rows), access.workers, access.ahead, 1)
    try:
        unread = pool.ask(np.arange(rows), CENTRE).wait().unread
    finally:
        pool.close()
    return rows - len(unread), len(unread)
