"""A packed set of random pixels, for measures that no image's content changes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from mixdist.data.packing.division import PackOptions
from mixdist.data.packing.pack import pack

CLASSES = 10


def pack_noise(folder: Path, images: int, size: int) -> Path:
    """Pack ``images`` images of ``size`` px to train on, and one a class to test on; return where the set lies."""
    generator = np.random.default_rng(0)
    for split, count in (("train", max(images, CLASSES)), ("test", CLASSES)):
        for row in range(count):
            path = folder / "source" / split / f"class-{row % CLASSES}" / f"{row:05d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(generator.integers(0, 256, (size, size, 3), dtype=np.uint8)).save(path)
    pack(str(folder / "source"), folder / "set", PackOptions(workers=1))
    return folder / "set"
