"""States of a run for tests of checkpoints: every kind of tensor and value that a part may hold."""

from __future__ import annotations

from typing import Any

import torch

from mixdist.engine.checkpoint.manifest import read_manifest
from mixdist.engine.checkpoint.read import read_parts

OWN = {"seed": "0", "plan": "a"}
PARTS = {"model": {"weight": torch.arange(4000.0)}, "moments": {"weight": {"step": torch.tensor(3.0)}}, "progress": {}}


def every_kind() -> dict[str, Any]:
    """Return parts with tensors of many dtypes, shapes and strides, two that share their storage among them."""
    torch.manual_seed(0)
    base = torch.randn(6, 4)
    conv = torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last)
    model = {
        "weight": torch.nn.Parameter(base),
        "tied": base,
        "row": base[2],
        "transposed": base.T,
        "conv": conv,
        "expanded": torch.randn(3, 1).expand(3, 5),
        "bf16": torch.randn(5).bfloat16(),
        "fp16": torch.randn(5).half(),
        "fp64": torch.randn(5).double(),
        "updates": torch.tensor(2**40 + 1),
        "mask": torch.tensor([True, False]),
        "bytes": torch.arange(7, dtype=torch.uint8),
        "empty": torch.empty(0, 3),
        "special": torch.tensor([float("nan"), float("inf"), -0.0, 1e-45]),
    }
    return {
        "model": model,
        "ema": {name: tensor.detach().clone() for name, tensor in model.items()},
        "moments": {"conv": {"step": torch.tensor(3.0), "exp_avg": conv * 2, "other": base[:, 1:3]}},
        "scaler": {"scale": 65536.0, "_growth_tracker": 7},
        "progress": {"step": 12, "phases": {"ssl": {"latency_s": 0.1}}, "accuracy": None, "top5": 3.5},
        "bad": {"found": [("train", 3), ("test", 2**50)], "limit": 0.01, "on": True},
        "plan": "0123456789abcdef",
    }


def assert_same(left: Any, right: Any, strides: bool = False, place: str = "parts") -> None:
    """Hold nested states against each other, tensors bit for bit and by dtype; with their strides where asked."""
    if isinstance(left, torch.Tensor):
        assert (left.dtype, left.shape) == (right.dtype, right.shape), place
        assert left.contiguous().view(-1).view(torch.uint8).equal(right.contiguous().view(-1).view(torch.uint8)), place
        assert not strides or left.stride() == right.stride(), place
    elif isinstance(left, dict):
        assert left.keys() == right.keys(), place
        for key in left:
            assert_same(left[key], right[key], strides, f"{place}.{key}")
    elif isinstance(left, list | tuple):
        assert (type(left), len(left)) == (type(right), len(right)), place
        for index, (one, other) in enumerate(zip(left, right, strict=True)):
            assert_same(one, other, strides, f"{place}.{index}")
    else:
        assert (type(left), left) == (type(right), right), place


def parts_of(path: Any) -> dict[str, Any]:
    """Return the parts of a checkpoint, of whatever run."""
    return read_parts(path, read_manifest(path))
