"""Autocast type and gradient scaler: what `train.precision` means on a device."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal

import torch


@dataclass(frozen=True)
class Precision:
    """The arithmetic of a run. Parameters, gradients and losses stay float32."""

    name: Literal["bf16", "fp16", "fp32"]
    device: torch.device

    def autocast(self) -> AbstractContextManager[None]:
        """Return the context that forwards run in."""
        if self.name == "fp32":
            return nullcontext()
        dtype = torch.float16 if self.name == "fp16" else torch.bfloat16
        return torch.autocast(self.device.type, dtype)

    def scaler(self) -> torch.amp.GradScaler:
        """Return a gradient scaler; for anything but fp16, whose range needs it, one that does nothing."""
        return torch.amp.GradScaler(self.device.type, enabled=self.name == "fp16")


def allow_tf32(allowed: bool, device: torch.device) -> None:
    """Let this process's float32 products and convolutions on a GPU be rounded to TF32, or not; a CPU has no such."""
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high" if allowed else "highest")
        torch.backends.cudnn.allow_tf32 = allowed


def choose_precision(asked: Literal["auto", "bf16", "fp16", "fp32"], device: torch.device) -> Precision:
    """Resolve "auto": bf16 on a GPU that computes in it, fp32 elsewhere."""
    if asked == "auto":
        asked = "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    return Precision(asked, device)
