"""DeepSpeed's config, generated from ours; a user's JSON file may add keys, never say a second time what is set."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from mixdist.config.dotted import dotted
from mixdist.errors import UserError

Tree = dict[str, Any]


@dataclass(frozen=True)
class Stated:
    """A value that mixdist decides, and the setting that it comes from."""

    value: Any
    source: str


@dataclass(frozen=True)
class Asked:
    """What of our config DeepSpeed has to be told."""

    zero_stage: int
    offload: bool
    batch: int  #: global
    micro_batch: int  #: most rows of one forward on one rank
    accumulation: int  #: most micro-batches of one update
    clip_grad: float | None
    parameters: int  #: numbers of all that the phase trains
    pinned: bool  #: whether offloaded memory is page-locked, for a device that copies from it


def generated(asked: Asked) -> dict[str, Stated]:
    """Return every key that DeepSpeed is told, by dotted path.

    Stated even where they are DeepSpeed's defaults: defaults move (gradient_clipping became 1.0 in 2026), and then DDP
    and DeepSpeed would train two models.
    """
    ours = "mixdist"
    stage, offload = "parallel.zero_stage", "parallel.offload"
    stated = {
        "train_micro_batch_size_per_gpu": Stated(asked.micro_batch, "train.micro_batch"),
        "gradient_accumulation_steps": Stated(asked.accumulation, "train.batch and train.micro_batch"),
        "gradient_clipping": Stated(asked.clip_grad or 0.0, "optim.clip_grad"),
        # Gradients are summed in fp32, then divided by the ranks: no other factor before or after.
        "prescale_gradients": Stated(False, ours),
        "gradient_predivide_factor": Stated(1.0, ours),
        "communication_data_type": Stated("fp32", ours),
        "zero_allow_untested_optimizer": Stated(True, ours),
        "zero_force_ds_cpu_optimizer": Stated(False, ours),  # torch's AdamW: nothing is compiled
        "zero_optimization.stage": Stated(asked.zero_stage, stage),
    }
    # Parameters stay fp32 whatever the precision; bf16 is autocast around the forward, as under DDP.
    for name in ("fp16", "bf16", "torch_autocast"):
        stated[f"{name}.enabled"] = Stated(False, "train.precision")
    if asked.zero_stage in (1, 2):
        stated["zero_optimization.compute_grad_norm"] = Stated(True, ours)  # it is recorded, and guards the step
    if asked.zero_stage == 3:
        # DeepSpeed's own linear would replace torch's for the whole process, evaluation included.
        stated["zero_optimization.memory_efficient_linear"] = Stated(False, ours)
    if asked.offload:
        for part in ("offload_optimizer", *(("offload_param",) if asked.zero_stage == 3 else ())):
            stated[f"zero_optimization.{part}.device"] = Stated("cpu", offload)
            stated[f"zero_optimization.{part}.pin_memory"] = Stated(asked.pinned, offload)
    return stated


def owned(asked: Asked) -> dict[str, Stated]:
    """Return keys that DeepSpeed is not told at all, because mixdist does what they stand for."""
    return {
        "train_batch_size": Stated(asked.batch, "train.batch"),
        "optimizer": Stated("AdamW", "optim.*"),
        "scheduler": Stated("warm-up and cosine", "optim.*"),
        "amp": Stated("autocast", "train.precision"),
        "data_types": Stated("autocast", "train.precision"),
        "managed_gradient_accumulation": Stated(True, "mixdist"),
        "checkpoint": Stated("mixdist's own", "run.*"),
        "zero_optimization.offload_optimizer": Stated("none", "parallel.offload"),
        "zero_optimization.offload_param": Stated("none", "parallel.offload"),
        "zero_optimization.cpu_offload": Stated("none", "parallel.offload"),
        "zero_optimization.cpu_offload_param": Stated("none", "parallel.offload"),
    }


def deepspeed_config(asked: Asked, path: Path | None = None) -> Tree:
    """Return the config for `deepspeed.initialize`, with what the JSON file ``path`` adds.

    Raises:
        UserError: offload without a partitioned optimiser, a file that cannot be read or is not JSON, or one that
            states what mixdist states; the message shows both values and where each came from.
    """
    if asked.offload and asked.zero_stage == 0:
        raise UserError("parallel.offload true needs parallel.zero_stage 1, 2 or 3; stage 0 partitions nothing")
    stated = generated(asked)
    added = read_json(path) if path else {}
    if path and (overlaps := _overlaps(added, stated, owned(asked), _lines(path))):
        raise UserError(
            f"parallel.deepspeed_config {path} may only add keys: {'; '.join(overlaps)}. Remove them there, and set "
            f"them where mixdist reads them"
        )
    for key, each in stated.items():
        *sections, name = key.split(".")
        inner = added
        for section in sections:
            inner = inner.setdefault(section, {})
        inner[name] = each.value
    if asked.zero_stage:  # its 500 million would take 2 GB of a GPU, however small the model
        section = added["zero_optimization"]
        section.setdefault("reduce_bucket_size", min(500_000_000, asked.parameters))
    return added


def read_json(path: Path) -> Tree:
    """Read a JSON object from a file.

    Raises:
        UserError: it cannot be read, is not JSON, or gives a key twice; the message names the line.
    """

    def once(pairs: list[tuple[str, Any]]) -> Tree:
        names = [name for name, _ in pairs]
        if twice := [name for name in names if names.count(name) > 1]:
            raise UserError(f"parallel.deepspeed_config {path}: {twice[0]} is given twice in one object")
        return dict(pairs)

    try:
        tree = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=once)
    except OSError as error:
        raise UserError(f"parallel.deepspeed_config {path} cannot be read: {error.strerror}") from None
    except json.JSONDecodeError as error:
        raise UserError(f"parallel.deepspeed_config {path}:{error.lineno} is not JSON: {error.msg}") from None
    except (UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"parallel.deepspeed_config {path} is not JSON: {error}") from None
    if not isinstance(tree, dict):
        raise UserError(f"parallel.deepspeed_config {path} should hold an object, it holds a {type(tree).__name__}")
    return tree


def _overlaps(added: Tree, stated: dict[str, Stated], ours: dict[str, Stated], lines: dict[str, int]) -> list[str]:
    """Return a line for each key of the file that mixdist states or owns, at any depth."""
    found = []
    for name, value in dotted(added):
        parts = name.split(".")
        above = [".".join(parts[:length]) for length in range(len(parts), 0, -1)]
        below = [key for key in stated if key.startswith(f"{name}.")]  # "fp16": false, where fp16.enabled is ours
        for key in [each for each in (*above, *below) if each in stated] or [each for each in above if each in ours]:
            mine = (stated | ours)[key] if key in stated else ours[key]
            line = f", line {lines[name]}" if name in lines else ""
            found.append(f"{name} is {json.dumps(value)} there{line}, {json.dumps(mine.value)} by {mine.source}")
            break
    return found


def _lines(path: Path) -> dict[str, int]:
    """Return the line of each key, by dotted path; JSON is read as the YAML that it nearly is, for its marks."""
    try:
        node = yaml.compose(path.read_text(encoding="utf-8").expandtabs(), Loader=yaml.SafeLoader)
    except yaml.YAMLError:
        return {}
    lines: dict[str, int] = {}

    def note(node: yaml.Node | None, prefix: str) -> None:
        for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
            lines[f"{prefix}{key.value}"] = key.start_mark.line + 1
            note(value, f"{prefix}{key.value}.")

    note(node, "")
    return lines
