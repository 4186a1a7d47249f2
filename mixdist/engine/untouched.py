"""Looking at a model without a trace: gradients, running statistics, random numbers and mode stay as they were."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def untouched(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Put all that a forward or backward moves back at the end of the block, also after an error.

    Which parameters require a gradient counts as well; their values are the caller's.
    """
    parameters = list(model.parameters())
    before = [(parameter.grad, parameter.requires_grad) for parameter in parameters]
    buffers = [buffer.clone() for buffer in model.buffers()]
    training = model.training
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            yield
    finally:
        model.train(training)
        for parameter, (gradient, required) in zip(parameters, before, strict=True):
            parameter.requires_grad_(required)
            parameter.grad = gradient
        for buffer, kept in zip(model.buffers(), buffers, strict=True):
            buffer.copy_(kept)
