"""scikit-learn's 1,797 handwritten digits as a source that needs no download: the quickstart's data."""

from __future__ import annotations

from functools import partial

import numpy as np
from PIL import Image

from mixdist.data.packing.folders import Sample
from mixdist.data.packing.reencode import lossless
from mixdist.errors import UserError

CLASSES = tuple("0123456789")


def digit_samples() -> list[Sample]:
    """Return the digits as 8 x 8 grayscale PNGs, their values of 0 to 16 spread over 0 to 255.

    Raises:
        UserError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise UserError(
            "the digits come with scikit-learn, which is missing: pip install 'mixdist[quickstart]'"
        ) from error
    digits = load_digits()
    samples = []
    for row, (values, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        image = Image.fromarray(np.rint(values * (255 / 16)).astype(np.uint8))
        key = f"digit_{row:04d}"
        samples.append(Sample(key, int(label), path=key, content=partial(lossless, image)))
    return samples
