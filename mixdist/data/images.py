"""uint8 images of one size, by sample id: decoded on demand, or decoded once and kept resident.

Both give the same bytes; only time and memory differ. Images of another size are brought to a square by scaling
the shorter side (antialiased bicubic) and cropping the centre, as evaluation does it, so a set of one size, which
packing keeps as it is, is never resampled.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from mixdist.data.decode import decode
from mixdist.data.fetch import Fetcher
from mixdist.data.index import Split
from mixdist.errors import DataError
from mixdist.keyed import Ids


class Images(Protocol):
    """Random access to uint8 images."""

    resident: bool  #: whether a call returns at once, with no reading or decoding

    def __call__(self, ids: Ids) -> torch.Tensor:
        """Return the images of ``ids``: uint8 [len(ids), size, size, 3], RGB."""
        ...


class StreamedImages:
    """Reads and decodes at each call, in a few threads."""

    resident = False

    def __init__(self, split: Split, size: int, workers: int) -> None:
        self._split, self._size = split, size
        self._fetch = Fetcher(split)
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="mixdist-decode")
        self._workers = workers

    def __call__(self, ids: Ids) -> torch.Tensor:
        """Return the images of ``ids``: uint8 [len(ids), size, size, 3] in RAM.

        Raises:
            DataError: a damaged or undecodable sample, named by key and shard.
        """
        out = np.empty((len(ids), self._size, self._size, 3), np.uint8)
        parts = np.array_split(np.arange(len(ids)), self._workers)  # one task a thread: the least overhead
        for task in [self._pool.submit(self._fill, out, ids, part) for part in parts]:
            task.result()
        return torch.from_numpy(out)

    def _fill(self, out: npt.NDArray[np.uint8], ids: Ids, rows: npt.NDArray[np.int64]) -> None:
        for row in rows:
            out[row] = self._load(int(ids[row]))

    def _load(self, sample: int) -> npt.NDArray[np.uint8]:
        content = self._fetch(sample)
        try:
            return fit(decode(content), self._size)
        except ValueError as error:
            raise DataError(f"{self._split.describe(sample)} cannot be decoded: {error}") from error


class ResidentImages:
    """The samples ``ids`` of a split, decoded once, in RAM or device memory."""

    resident = True

    def __init__(self, source: StreamedImages, ids: Ids, samples: int, device: torch.device) -> None:
        self._images = source(ids).to(device)
        row_of = np.full(samples, -1, np.int64)
        row_of[ids] = np.arange(len(ids))
        self._row_of = row_of

    def __call__(self, ids: Ids) -> torch.Tensor:
        """Return the images of ``ids``: uint8 [len(ids), size, size, 3], where the set is resident."""
        rows = torch.from_numpy(self._row_of[ids]).to(self._images.device, non_blocking=True)
        return self._images.index_select(0, rows)


def fit(image: npt.NDArray[np.uint8], size: int) -> npt.NDArray[np.uint8]:
    """Bring an image [height, width, 3] to [size, size, 3]; one that has this size is returned as it is."""
    height, width = image.shape[:2]
    if height == width == size:
        return image
    scale = size / min(height, width)
    scaled = (max(size, round(width * scale)), max(size, round(height * scale)))
    left, top = (scaled[0] - size) // 2, (scaled[1] - size) // 2
    resized = Image.fromarray(image).resize(scaled, Image.Resampling.BICUBIC)
    return np.asarray(resized.crop((left, top, left + size, top + size)))
