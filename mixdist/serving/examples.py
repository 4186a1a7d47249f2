"""The images on which an exported model is compared with its run."""

from __future__ import annotations

from itertools import islice

import numpy as np
import torch

from mixdist.errors import DataError, MixdistError, UserError
from mixdist.serving.finished_run import FinishedRun
from mixdist.serving.items import View, find_items

COUNT = 16
SEED = 0


def examples(run: FinishedRun, source: str | None) -> tuple[torch.Tensor, str]:
    """Return images uint8 [B, S, S, 3], and what to call them.

    Args:
        run: whose test split serves where no source is given; noise does where that split is gone.
        source: see `find_items`.

    Raises:
        UserError: a source that was given holds no image that can be read.
    """
    view = View(run.task.image_size, 1)
    if source is not None:
        found = _read(source, None, view)
        if not found:
            raise UserError(f"--check-on {source}: none of its first {COUNT} images can be read")
        return torch.from_numpy(np.concatenate(found)), f"{len(found)} images of {source}"
    try:
        found = _read(run.config.data.sl, "test", view)
    except MixdistError:
        found = []
    if found:
        return torch.from_numpy(np.concatenate(found)), f"{len(found)} images of the test split of {run.task.data}"
    noise = torch.randint(0, 256, (COUNT, view.size, view.size, 3), generator=torch.Generator().manual_seed(SEED))
    return noise.byte(), f"{COUNT} images of noise, as {run.task.data} is gone (--check-on names others)"


def _read(source: str, split: str | None, view: View) -> list[np.ndarray[tuple[int, ...], np.dtype[np.uint8]]]:
    found = []
    for item in islice(find_items(source, view, split), COUNT):
        try:
            found.append(item.read())
        except (OSError, ValueError, DataError):
            continue
    return found
