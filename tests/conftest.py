"""Packed sets that tests of the real command line share; each is packed once a session."""

from __future__ import annotations

import os
from collections.abc import Generator
from pathlib import Path
from typing import Any

import launching
import numpy as np
import pytest
from PIL import Image

from mixdist.imports import uncollected

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: tiny models run slower on more threads

TRAIN = {"ash": 34, "birch": 32, "cedar": 31}  # 97 images: one more than six batches of 16
TEST = {"ash": 11, "birch": 10, "cedar": 10}  # 31 images
UNLABELLED = 33  # images of the other set: one more than two batches of 16


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, Any, Any]:
    """Import all tests, and the libraries that they need, without collections."""
    with uncollected():
        return (yield)


@pytest.fixture(scope="session")
def packed_sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with three packed sets.

    "tiny": 97 images of 8 px in 3 classes, 49 of them labelled, and 31 to test on. "flat": 33 images without labels.
    "digits": the 1,797 digits.
    """
    folder = tmp_path_factory.mktemp("sets")
    generator = np.random.default_rng(0)
    for split, counts in (("train", TRAIN), ("test", TEST)):
        for number, (name, count) in enumerate(counts.items()):
            write_images(folder / "source" / split / name, count, 60 + 50 * number, generator)
    write_images(folder / "images", UNLABELLED, 128, generator)
    for arguments in (
        ("source", "tiny", "--labelled-fraction", "0.5"),
        ("images", "flat"),
        ("digits", "digits"),
    ):
        done = launching.run(launching.mixdist("pack", *arguments), folder)
        assert done.code == 0, done.err
    return folder


def write_images(folder: Path, count: int, brightness: int, generator: np.random.Generator) -> None:
    """Write noisy 8 px images around a brightness."""
    folder.mkdir(parents=True)
    for row in range(count):
        noisy = brightness + generator.normal(0, 40, (8, 8, 3))
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(folder / f"{row:03d}.png")
