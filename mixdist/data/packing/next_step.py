"""The command to run next on a set, such that it runs: with a side and a patch size where the images need them."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import numpy as np

LARGEST = 224  # pixels: beyond it a first run takes hours that nobody asked for
PATCHES = ((16, 2), (64, 4))  # images of up to so many pixels: patch size; larger ones have the default model's
PATCH = 16  # of the default model


def next_command(folder: Path, manifest: dict[str, Any]) -> str:
    """Return the command that trains on a set that was just written.

    Images of several sizes, or not square, are brought to the median shorter side of train, as `mixdist check` prints
    it, rounded to whole patches and at most ``LARGEST``.
    """
    command = "torchrun --standalone --nproc_per_node=1 -m mixdist.train"
    where = shlex.quote(str(folder))
    if not manifest["classes"]:  # it serves D_ssl only, beside a labelled set
        return f"{command} --data.sl LABELLED_SET --data.ssl {where}"
    stored = manifest["image_size"]
    square = stored is not None and stored[0] == stored[1]
    side = stored[0] if square else min(LARGEST, _median_side(folder / manifest["splits"]["train"]["index"]))
    patch = next((patch for largest, patch in PATCHES if side <= largest), PATCH)
    whole = max(4, round(side / patch) * patch)
    size = "" if square and whole == side else f" --data.image_size {whole}"
    return f"{command} --data.sl {where}{size}{'' if patch == PATCH else f' --model.patch_size {patch}'}"


def _median_side(index: Path) -> int:
    rows = np.load(index, mmap_mode="r", allow_pickle=False)
    return int(np.median(np.minimum(rows["height"], rows["width"])))
