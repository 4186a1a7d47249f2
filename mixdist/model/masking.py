"""The patch mask of MAE, from random numbers that are given (they are keyed by sample outside the model)."""

from __future__ import annotations

import math
from fractions import Fraction

import torch


def random_mask(noise: torch.Tensor, mask_ratio: float) -> torch.Tensor:
    """Mask the patches with the largest numbers of ``noise`` [B, L].

    Returns:
        bool [B, L], True where masked; each row masks the same number, L − floor(L·(1 − ratio)), at least one.
    """
    mask = torch.ones_like(noise, dtype=torch.bool)
    return mask.scatter(1, visible_patches(noise, mask_ratio), False)


def visible_patches(noise: torch.Tensor, mask_ratio: float) -> torch.Tensor:
    """Return the places of the patches that `random_mask` leaves, int64 [B, kept], in no order that means something."""
    kept: int = kept_patches(noise.shape[1], mask_ratio)
    return noise.argsort(dim=1, stable=True)[:, :kept]


def gather_patches(patches: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Return the patches [B, kept, D] of [B, L, D] that lie at ``places`` [B, kept]."""
    return patches.gather(1, places[:, :, None].expand(-1, -1, patches.shape[2]))


def scatter_patches(patches: torch.Tensor, places: torch.Tensor, token: torch.Tensor, count: int) -> torch.Tensor:
    """Undo `gather_patches`: return [B, count, D] with ``token`` [1, 1, D] where there is no patch."""
    batch, _, width = patches.shape
    return token.expand(batch, count, width).scatter(1, places[:, :, None].expand(-1, -1, width), patches)


# A compiler of tensor code cannot follow fractions.
@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def kept_patches(patches: int, mask_ratio: float) -> int:
    """Return how many of the patches stay visible."""
    # On the decimal number that was written: in binary fractions, 900 * (1 - 0.89) = 98.999... loses a patch.
    return min(patches - 1, math.floor(patches * (1 - Fraction(str(mask_ratio)))))


def to_images(patches: torch.Tensor, patch: int) -> torch.Tensor:
    """Lay patches [B, L, patch·patch·3], in raster order, out as images [B, 3, S, S]."""
    batch, count, _ = patches.shape
    grid = round(count**0.5)
    cut = patches.reshape(batch, grid, grid, patch, patch, 3)
    return cut.permute(0, 5, 1, 3, 2, 4).reshape(batch, 3, grid * patch, grid * patch)
