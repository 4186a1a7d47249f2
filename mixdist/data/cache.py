"""Whether the decoded samples are kept resident, decided once at the start and said aloud."""

from __future__ import annotations

import os
from typing import Literal

import torch

from mixdist.data.images import Images, ResidentImages, StreamedImages
from mixdist.data.index import Split
from mixdist.keyed import Ids
from mixdist.world import World

SHARE = 0.25  # of the free memory that `auto` may take: the model, its activations and a second set need the rest


def make_images(
    split: Split, ids: Ids, size: int, cache: Literal["auto", "device", "ram", "none"], workers: int, world: World
) -> tuple[Images, str]:
    """Return access to the images ``ids`` of a split, and where they are kept: "device", "ram" or "none"."""
    source = StreamedImages(split, size, workers)
    needed = len(ids) * size * size * 3
    place = cache if cache != "auto" else _choose(needed, world)
    if place == "none":
        return source, place
    device = world.device if place == "device" else torch.device("cpu")
    return ResidentImages(source, ids, len(split.index), device), place


def _choose(needed: int, world: World) -> Literal["device", "ram", "none"]:
    if world.device.type == "cuda" and needed <= SHARE * torch.cuda.mem_get_info(world.device)[0]:
        return "device"
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return "ram" if needed * world.local_size <= SHARE * free else "none"
