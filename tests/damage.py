"""Damage packed sets in ways that disks and networks do."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np

from mixdist.data.open_set import open_set


def flip_bits(folder: Path, sample: int, split: str = "train") -> str:
    """Flip the bits of a byte in the middle of an image; return how a message should name the image."""
    found = open_set(folder).split(split)
    row = found.index[sample]
    with found.shard_path(int(row["shard"])).open("r+b") as shard:
        shard.seek(int(row["offset"]) + int(row["size"]) // 2)
        flipped = bytes([shard.read(1)[0] ^ 0xFF])
        shard.seek(-1, 1)
        shard.write(flipped)
    return found.describe(sample)


def replace_by_text(folder: Path, sample: int, split: str = "train") -> None:
    """Put text into the place of an image and its checksum into the index: packed so, it never was an image."""
    found = open_set(folder).split(split)
    row = found.index[sample]
    text = b"x" * int(row["size"])
    with found.shard_path(int(row["shard"])).open("r+b") as shard:
        shard.seek(int(row["offset"]))
        shard.write(text)
    index = np.array(found.index)
    index[sample]["crc32"] = zlib.crc32(text)
    np.save(folder / f"{split}.index.npy", index)
