"""Where the decoded samples of a set are kept, decided once at the start and said aloud."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch

from mixdist.data.decoded import Decoded, open_decoded
from mixdist.data.free_memory import free_memory
from mixdist.data.images import CHUNK, DirectImages, Images, PooledImages, ResidentImages, fill
from mixdist.data.index import PackedSet, Split
from mixdist.data.reading.memory import Setup
from mixdist.data.reading.reader import Unread
from mixdist.errors import UserError
from mixdist.keyed import Ids
from mixdist.world import World

CacheMode = Literal["auto", "device", "ram", "disk", "none"]
SHARE = 0.25  # of the free memory that `auto` may take: the model, its activations and a second set need the rest
WORTH_A_POOL = 5_000  # samples: below, decoding takes less time than the start of a process (0.3 s against 0.2 s)
FILL_AHEAD = 4  # chunks that are decoded while one is copied


@dataclass(frozen=True)
class Access:
    """How the images of a run are read, the same for all of its sets."""

    size: int  #: side of the decoded square in pixels
    frames: int  #: images of one visit, where the set has clips
    seed: int
    cache: CacheMode
    folder: Path  #: for the disk cache
    limit_bytes: int | None  #: that the disk cache may take of it
    workers: int
    batch: int  #: most samples that are asked for at once
    asks: int  #: how often a step asks
    ahead: int  #: steps that are decoded in advance
    world: World
    alive: Callable[[], None]  #: called all along while a set is decoded, which may take hours

    def setup(self, packed: PackedSet, split: Split, rows: int) -> Setup:
        """Return what a worker needs to know."""
        cache = packed.place.cache
        return Setup(
            location=packed.place.location,
            cache=str(cache.folder) if cache else None,
            cache_limit=cache.limit_bytes if cache else None,
            split=split.name,
            stamp=split.stamp,
            size=self.size,
            frames=self.frames,
            seed=self.seed,
            rows=rows,
        )


def make_images(packed: PackedSet, name: str, ids: Ids, access: Access) -> tuple[Images, str]:
    """Return access to the images ``ids`` of a split, and where they are kept: "device", "ram", "disk" or "none".

    Raises:
        DataError: a shard that cannot be read.
        UserError: a cache folder that cannot be written.
    """
    split = packed.split(name)
    place = access.cache if access.cache != "auto" else _choose(len(ids), access)
    if split.index["milliseconds"][ids].any():
        place = "none"  # each visit to a clip sees other frames of it
    else:
        access = replace(access, frames=1)
    if place == "none":
        if access.workers == 0:
            return DirectImages(split, access.size, access.frames, access.seed), place
        slots = access.asks * (access.ahead + 2)  # in flight, in use, and the one whose copy may still be under way
        setup = access.setup(packed, split, slots * access.batch)
        pin = access.world.device.type == "cuda"
        return PooledImages(setup, access.workers, access.ahead, slots, pin), place
    shape = (len(ids), access.size, access.size, 3)
    if place == "disk":
        found = _on_disk(packed, split, ids, shape, access)
        return ResidentImages(ids, len(split.index), found.images.view(shape), found.unread, found.held), place
    device = access.world.device if place == "device" else torch.device("cpu")
    images = torch.empty(shape, dtype=torch.uint8, device=device)  # not in RAM first, of which each rank would take it
    unread = _decode(images, packed, split, ids, access, access.alive)
    return ResidentImages(ids, len(split.index), images, unread), place


def most_device_bytes(sets: list[int], size: int, cache: CacheMode, device: torch.device) -> int:
    """Return how much device memory sets of so many images of ``size`` px will be kept in, at most."""
    if device.type != "cuda" or cache not in ("auto", "device"):
        return 0
    most = SHARE * torch.cuda.mem_get_info(device)[0] if cache == "auto" else float("inf")
    return sum(needed for needed in (images * size**2 * 3 for images in sets) if needed <= most)


def _choose(samples: int, access: Access) -> Literal["device", "ram", "none"]:
    needed, world = samples * access.size**2 * 3, access.world
    if world.device.type == "cuda" and needed <= SHARE * torch.cuda.mem_get_info(world.device)[0]:
        return "device"
    return "ram" if needed * world.local_size <= SHARE * free_memory() else "none"


def _decode(
    out: torch.Tensor, packed: PackedSet, split: Split, ids: Ids, access: Access, alive: Callable[[], None]
) -> list[Unread]:
    if access.workers == 0 or len(ids) < WORTH_A_POOL:
        return fill(out, DirectImages(split, access.size), ids, alive)
    slots = FILL_AHEAD + 1
    pooled = PooledImages(access.setup(packed, split, slots * CHUNK), access.workers, FILL_AHEAD, slots)
    try:
        return fill(out, pooled, ids, alive)
    finally:
        pooled.close()


def _on_disk(packed: PackedSet, split: Split, ids: Ids, shape: tuple[int, ...], access: Access) -> Decoded:
    """Map the decoded samples from a file that the first process of a node makes and all others share."""
    chosen = hashlib.sha256(ids.tobytes()).hexdigest()[:16]
    folder, name = access.folder / "decoded", f"{packed.fingerprint}-{split.name}-{access.size}px-{chosen}"
    numbers = math.prod(shape)
    try:
        return open_decoded(
            folder,
            name,
            numbers,
            access.limit_bytes,
            lambda images, alive: _decode(images.view(shape), packed, split, ids, access, alive),
            access.alive,
        )
    except OSError as error:
        raise UserError(
            f"data.cache disk: {folder / name} cannot be written ({error.strerror}); it needs {numbers / 2**20:,.0f} "
            f"MiB in data.cache_dir {access.folder}: give another one, or data.cache none"
        ) from error
