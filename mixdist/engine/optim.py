"""AdamW over the groups B, R and C that a phase trains, each moved by its own drive; moments cross borders or not."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch

from mixdist.model.mixmodel import MixModel
from mixdist.plan import Group, Phase

State = dict[str, dict[str, Any]]  # parameter name -> AdamW's step and moments


@dataclass(frozen=True)
class Optimiser:
    """The optimiser of one phase."""

    phase: Phase
    adamw: torch.optim.AdamW
    names: dict[str, torch.nn.Parameter]  #: the parameters it moves

    def set_rates(self, step: int) -> None:
        """Set the learning rates of 0-based ``step`` of the phase."""
        for group in self.adamw.param_groups:
            group["lr"] = self.phase.drives[group["name"]].lr(step)

    def rates(self) -> dict[Group, float]:
        """Return the current learning rate of each group that the phase trains."""
        return {group["name"]: group["lr"] for group in self.adamw.param_groups}

    def state(self) -> State:
        """Return AdamW's state by parameter name, so that it outlives this optimiser."""
        return {name: self.adamw.state[parameter] for name, parameter in self.names.items()}

    def load(self, state: State) -> None:
        """Take up the moments of those parameters that ``state`` knows; the others start afresh."""
        for name, parameter in self.names.items():
            if name in state:
                self.adamw.state[parameter] = {key: _like(parameter, value) for key, value in state[name].items()}


def _like(parameter: torch.nn.Parameter, value: torch.Tensor) -> torch.Tensor:
    """Copy a moment to the parameter's device and strides: the fused AdamW walks through memory, whatever those are."""
    if value.dim() == 0:
        return value.to(parameter.device, copy=True)
    return torch.empty_like(parameter, dtype=value.dtype, requires_grad=False).copy_(value)


def make_optimiser(
    phase: Phase, model: MixModel, groups: dict[Group, list[str]], undecayed: frozenset[str] = frozenset()
) -> Optimiser:
    """Build the fused AdamW of a phase over the groups that it drives.

    Args:
        phase: whose drives move the groups.
        model: whose parameters are moved.
        groups: names of the parameters of B, R and C.
        undecayed: names of those that have no weight decay.
    """
    parameters = dict(model.named_parameters())
    cut = [
        (group, names, decay)
        for group, drive in phase.drives.items()
        for names, decay in (
            ([name for name in groups[group] if name not in undecayed], drive.weight_decay),
            ([name for name in groups[group] if name in undecayed], 0.0),
        )
        if names
    ]
    adamw = torch.optim.AdamW(
        [
            {
                "name": group,
                "params": [parameters[name] for name in names],
                "lr": phase.drives[group].lr(0),
                "betas": phase.drives[group].betas,
                "weight_decay": decay,
            }
            for group, names, decay in cut
        ],
        fused=True,
    )
    return Optimiser(phase, adamw, {name: parameters[name] for _, names, _ in cut for name in names})


def total_norm(parameters: Iterable[torch.nn.Parameter]) -> torch.Tensor:
    """Return the L2 norm over all gradients, 0-dim; all of them lie on one device.

    What torch.nn.utils.get_total_norm does, without looking for the device of each: 0.04 ms less (benchmarks/step.py).
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norms: tuple[torch.Tensor, ...] = torch._foreach_norm(gradients)
    norm: torch.Tensor = torch.linalg.vector_norm(torch.stack(norms))
    return norm


def step_if_finite(adamw: torch.optim.AdamW, norm: torch.Tensor) -> torch.Tensor:
    """Let a fused AdamW move, unless the norm of the gradient is not finite; return 1.0 where it moved, else 0.0.

    It leaves the update out by itself where it is told so by a number on the device, as GradScaler tells it: the host
    does not wait. On a CPU a look costs nothing, spares the operations that the answer would take on the device
    (0.03 ms, benchmarks/step.py), and AdamW with nothing to heed is 0.1 ms faster.
    """
    if norm.device.type == "cpu":
        finite = math.isfinite(norm.item())
        applied = norm.new_full((), float(finite))
    else:
        finite, applied = False, norm.isfinite().float()
    adamw.found_inf = None if finite else 1 - applied  # type: ignore[attr-defined]
    adamw.step()
    return applied
