"""Tars as other tools write them, for tests."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
from packing import pixels
from PIL import Image


def image(name: str, form: str = "PNG", height: int = 4, width: int = 6) -> bytes:
    """Return an image that its name decides."""
    file = io.BytesIO()
    Image.fromarray(pixels(name, height, width)).save(file, form)
    return file.getvalue()


def sample(key: str, label: object = None, **others: bytes) -> list[tuple[str, bytes]]:
    """Return the members of a sample: KEY.png, KEY.cls where there is a label, and others by extension."""
    labelled = [(f"{key}.cls", str(label).encode())] if label is not None else []
    return [(f"{key}.png", image(key)), *labelled, *((f"{key}.{name}", content) for name, content in others.items())]


def samples(count: int, classes: int = 2, prefix: str = "s") -> list[tuple[str, bytes]]:
    """Return the members of labelled samples, their classes in turn."""
    return [member for row in range(count) for member in sample(f"{prefix}{row:03d}", row % classes)]


def write_tar(path: Path, members: list[tuple[str, bytes]]) -> Path:
    """Write a plain tar."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as out:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            out.addfile(info, io.BytesIO(content))
    return path


def decoded(content: bytes) -> np.ndarray:
    """Return what Pillow makes of an image."""
    with Image.open(io.BytesIO(content)) as opened:
        return np.asarray(opened.convert("RGB"))
