"""What the manifest says of a split's pixels: mean and standard deviation by channel, and the sizes that occur."""

from __future__ import annotations

import math

from mixdist.data.packing.encode import Encoded


class Measure:
    """Sums over images, kept in Python integers: no rounding at any number of pixels."""

    def __init__(self) -> None:
        self.sizes: set[tuple[int, int]] = set()  #: (height, width) of all images added
        self.turned = 0  #: images with an EXIF orientation that says to turn or mirror them
        self._pixels = 0
        self._sums = [0, 0, 0]
        self._squares = [0, 0, 0]

    def add(self, image: Encoded) -> None:
        """Add one image, or those frames of a clip that were measured."""
        self.sizes.add((image.height, image.width))
        self.turned += image.turned
        self._pixels += image.height * image.width * image.measured
        for channel in range(3):
            self._sums[channel] += int(image.sums[0, channel])
            self._squares[channel] += int(image.sums[1, channel])

    @property
    def mean(self) -> list[float]:
        """Mean of R, G, B in [0, 1]."""
        return [total / (255 * self._pixels) for total in self._sums]

    @property
    def std(self) -> list[float]:
        """Population standard deviation of R, G, B; 0 for a channel that never changes."""
        n = self._pixels
        return [math.sqrt((n * q - s * s) / (255 * n) ** 2) for s, q in zip(self._sums, self._squares, strict=True)]
