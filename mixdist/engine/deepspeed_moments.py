"""Whole parameters and AdamW moments out of ZeRO's partitions, and back into them, by parameter name.

ZeRO 1 to 3 let AdamW move flat tensors: for each param group the parts of its parameters that this rank owns. Gathers
go through DeepSpeed's public functions. Its own scatter of ZeRO 3 fails for parameters whose size the ranks do not
divide, so that one is done here on the rank's slice.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mixdist.engine.optim import Optimiser, State
from mixdist.errors import MixdistError

KEYS = ("exp_avg", "exp_avg_sq")


class Moments:
    """AdamW's state under one engine; there from the start, with zeros, so that a fresh phase can be filled."""

    def __init__(self, optimiser: Optimiser, groups: list[list[nn.Parameter]], zero: Any, stage: int) -> None:
        from deepspeed import utils

        self._utils, self._adamw, self._stage = utils, optimiser.adamw, stage
        names = {id(parameter): name for name, parameter in optimiser.names.items()}
        self._groups = [{names[id(parameter)]: parameter for parameter in group} for group in groups]
        self._flat = (
            self._flat_of_stage_3(zero) if stage == 3 else [[flat] for flat in zero.single_partition_of_fp32_groups]
        )
        for flat in (each for group in self._flat for each in group):
            self._adamw.state[flat] = {
                "step": torch.zeros((), dtype=torch.float32, device=flat.device),
                **{key: torch.zeros_like(flat) for key in KEYS},
            }
        if stage < 3:
            zero._lazy_init_hp_params_optimizer_state()  # the views of parameters into the flat state

    def _flat_of_stage_3(self, zero: Any) -> list[list[Tensor]]:
        found: list[list[Tensor]] = [[] for _ in self._groups]
        for number, flat in enumerate(zero.fp32_partitioned_groups_flat):
            found[zero.sub_group_to_group_id[number]].append(flat)
        return found

    def parameter(self, parameter: nn.Parameter) -> Tensor:
        """Return a trained parameter whole; collective in stage 3."""
        if self._stage < 3:
            return parameter
        whole: Tensor = self._utils.safe_get_full_fp32_param(parameter)
        return whole

    def gather(self) -> State:
        """Return the state by parameter name, whole on every rank; empty for what never moved. Collective."""
        state: State = {}
        for group, flat in zip(self._groups, self._flat, strict=True):
            step = self._adamw.state[flat[0]]["step"]
            moved = bool(step > 0)
            for name, parameter in group.items():
                state[name] = {}
                if moved:
                    whole = {key: self._utils.safe_get_full_optimizer_state(parameter, key) for key in KEYS}
                    state[name] = {"step": step.clone(), **whole}
        return state

    @torch.no_grad()
    def scatter(self, state: State) -> None:
        """Take up the moments of those param groups that ``state`` knows.

        Raises:
            MixdistError: it knows part of a group only, or of different ages, which one flat tensor cannot hold.
        """
        for group, flat in zip(self._groups, self._flat, strict=True):
            known = {name: state[name] for name in group if state.get(name)}
            if not known:
                continue
            steps = {float(each["step"]) for each in known.values()}
            if len(known) < len(group) or len(steps) > 1:
                missing = next((name for name in group if name not in known), "none")
                raise MixdistError(
                    f"moments of {len(known)} of {len(group)} parameters of a group (without: {missing}), of steps "
                    f"{sorted(steps)}: DeepSpeed keeps one step for a group; use parallel.strategy ddp"
                ).everywhere()
            for each in flat:
                self._adamw.state[each]["step"].fill_(min(steps))
            for name, parameter in group.items():
                for key in KEYS:
                    self._put(parameter, known[name][key], key)

    def _put(self, parameter: nn.Parameter, whole: Tensor, key: str) -> None:
        if self._stage < 3:
            self._utils.safe_set_full_optimizer_state(parameter, whole, key)
            return
        rows = parameter.ds_tensor.numel()  # type: ignore[attr-defined]  # of this rank, the last one padded
        own = torch.zeros(rows, dtype=whole.dtype, device=whole.device)
        first = rows * torch.distributed.get_rank()
        part = whole.flatten()[first : first + rows]
        own[: len(part)] = part
        self._utils.safe_set_local_optimizer_state(parameter, own, key)
