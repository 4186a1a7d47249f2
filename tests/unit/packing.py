"""Small image folders and packed sets for tests."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from PIL import Image

from mixdist.data.index import PackedSet
from mixdist.data.open_set import open_set
from mixdist.data.packing.division import PackOptions
from mixdist.data.packing.pack import Packed, pack


def pixels(name: str, height: int = 4, width: int = 6) -> np.ndarray:
    """Return an RGB image that its name decides; uint8, shape [height, width, 3]."""
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def write_images(folder: Path, *names: str) -> Path:
    """Write an image of ``pixels(name)`` under each name, which may hold folders; the suffix decides the format."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels(name)).save(path)
    return folder


def class_folders(folder: Path, *classes: str, images: int = 10) -> Path:
    """Write ``images`` PNGs into a folder for each class."""
    return write_images(folder, *(f"{name}/{row:03d}.png" for name in classes for row in range(images)))


def packed(source: Path | str, out: Path, **options: object) -> PackedSet:
    """Pack and open."""
    run(source, out, **options)
    return open_set(out)


def run(source: Path | str, out: Path, **options: object) -> Packed:
    """Pack with two workers."""
    return pack(str(source), out, PackOptions(**{"workers": 2, **options}))  # type: ignore[arg-type]
