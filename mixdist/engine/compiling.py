"""torch.compile around the one forward of a phase.

Compiled inside of DDP and anew for each phase, whose heads and frozen parameters are constants to the compiler. The
first micro-batch is compiled for its size; the first of another size, an epoch's short last one, for all sizes: two
graphs a phase. A synchronised BatchNorm layer on several ranks is left to run as it is, between compiled pieces.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import nn
from torch._inductor.cpp_builder import get_cpp_compiler
from torch.utils._triton import has_triton

from mixdist.errors import UserError


def check_compiler(device: torch.device) -> None:
    """Find what torch.compile needs on a device.

    Raises:
        UserError: it is not there.
    """
    if device.type == "cuda":
        if not has_triton():
            raise UserError("train.compile needs Triton, which this installation of torch lacks; leave it off")
        return
    try:
        get_cpp_compiler()
    except Exception as error:  # a type of its own for each kind of absence
        raise UserError(
            "train.compile needs a C++ compiler on a CPU: install g++ or clang++, or leave it off"
        ) from error


def compiled(model: nn.Module) -> nn.Module:
    """Return a module with the same parameters whose forward is compiled when it is first called."""
    torch.compiler.reset()  # the graphs of the phase before: they hold memory, and count against the limit of graphs
    return cast(nn.Module, torch.compile(model))
