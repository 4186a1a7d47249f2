"""The parts of a run's state: which there are, in which version, in which file, and their copy in host memory.

A part is plain: dicts, lists and tuples of tensors, numbers, strings and None, so that reading it runs nothing.
"""

from __future__ import annotations

from typing import Any

import torch

Parts = dict[str, Any]  # name of the part -> its plain state

VERSIONS = {  # of what each part holds; a change of its layout raises its number
    "model": 1,  # parameters and buffers by name: whole tensors, whatever the strategy
    "ema": 1,  # averaged weights by the same names
    "moments": 1,  # AdamW's step and moments by parameter name
    "scaler": 1,  # of fp16's losses
    "progress": 1,  # mixdist.engine.progress.Progress
    "bad": 1,  # samples that could not be read
    "plan": 1,  # the plan's hash
    "record": 1,  # mixdist.engine.record.StepRecord of the step, where the model was still to be judged; else absent
    "trackers": 1,  # what trackers need to go on where they were, such as W&B's run id
}
STATE = "state.pt"  #: all parts that have no file of their own
WEIGHTS = {
    "model": "model.safetensors",
    "ema": "ema.safetensors",
}  #: flat name -> tensor; any safetensors reader opens it


def files_of(names: set[str]) -> set[str]:
    """Return the files that parts with these names lie in."""
    return {STATE} | {file for name, file in WEIGHTS.items() if name in names}


def tensors(state: Any) -> list[torch.Tensor]:
    """Return the tensors of nested plain state, in order."""
    if isinstance(state, torch.Tensor):
        return [state]
    if isinstance(state, dict):
        return [tensor for value in state.values() for tensor in tensors(value)]
    if isinstance(state, list | tuple):
        return [tensor for value in state for tensor in tensors(value)]
    return []


def to_host(parts: Parts, old: Parts | None = None) -> Parts:
    """Return a copy of the parts in host memory that shares nothing with them: training may go on at once.

    From a GPU all copies are queued into pinned memory, and waited for once. Values, dtypes and strides stay.

    Args:
        parts: what is copied.
        old: an earlier copy that nobody needs any more; its memory is taken again, which saves most of the time.

    Raises:
        TypeError: a part that has no version, or holds what is not plain.
    """
    if unknown := sorted(parts.keys() - VERSIONS.keys()):
        raise TypeError(f"parts {unknown} of a checkpoint have no version in {__name__}.VERSIONS")
    copied = {name: _copy(state, _within(old, name), name) for name, state in parts.items()}
    for device in {tensor.device for tensor in tensors(parts) if tensor.is_cuda}:
        torch.cuda.synchronize(device)
    return copied


def _copy(state: Any, old: Any, place: str) -> Any:
    if isinstance(state, torch.Tensor):
        return _host_copy(state.detach(), old)
    if isinstance(state, dict):
        return {_plain(key, place): _copy(value, _within(old, key), f"{place}.{key}") for key, value in state.items()}
    if isinstance(state, list | tuple):
        kind = list if isinstance(state, list) else tuple
        return kind(_copy(value, None, f"{place}.{index}") for index, value in enumerate(state))
    return _plain(state, place)


def _within(old: Any, key: Any) -> Any:
    return old.get(key) if isinstance(old, dict) else None


def _host_copy(tensor: torch.Tensor, old: Any) -> torch.Tensor:
    host = torch.empty_like(tensor, device="cpu", pin_memory=tensor.is_cuda) if not _fits(old, tensor) else old
    return host.copy_(tensor, non_blocking=tensor.is_cuda)


def _fits(old: Any, tensor: torch.Tensor) -> bool:
    if not isinstance(old, torch.Tensor):
        return False
    return (old.dtype, old.shape, old.stride()) == (tensor.dtype, tensor.shape, tensor.stride())


def _plain(value: Any, place: str) -> Any:
    if value is None or type(value) in (bool, int, float, str):  # no subclasses: torch would refuse to load them
        return value
    raise TypeError(f"{place} of a checkpoint is a {type(value).__name__}, which would not load again")
