"""`python -m benchmarks.checkpoint`: how long a checkpoint holds the training, beside torch.save with a flush.

Both save the same state: weights and AdamW's moments. Rounds alternate between them; medians and spreads are printed.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.entry import leave
from benchmarks.machine import measured_on
from mixdist.arguments import Parser, refuse_below_one
from mixdist.config.schema import Config
from mixdist.engine.checkpoint import Checkpoints
from mixdist.engine.checkpoint.parts import tensors
from mixdist.files import write_json
from mixdist.model.mixmodel import build_model


def main(argv: Sequence[str]) -> int:
    """Measure, print, and write what was asked for; return the exit code."""
    arguments = _parser().parse_args(argv)
    refuse_below_one(runs=arguments.runs, image_size=arguments.image_size)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    state = state_of(arguments.backbone, arguments.image_size, device)
    megabytes = sum(tensor.numel() * tensor.element_size() for tensor in tensors(state)) / 1e6
    arguments.work.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="checkpoint-", dir=arguments.work))
    try:
        figures = measure(state, folder, arguments.runs)
    finally:
        shutil.rmtree(folder)
    ratio = figures["torch_save_s"][0] / figures["stall_s"][0]
    what = f"{arguments.backbone}, {megabytes:.0f} MB on {device.type}"
    print(f"{what}, median (low - high) of {arguments.runs} saves, ms:")
    for name, (middle, low, high) in figures.items():
        print(f"  {name:<14} {1e3 * middle:9.1f}  ({1e3 * low:.1f} - {1e3 * high:.1f})")
    print(f"torch.save with a flush holds the training {ratio:.1f} times as long")
    if arguments.json:
        measured = {
            **measured_on(),
            "backbone": arguments.backbone,
            "megabytes": megabytes,
            "device": device.type,
            "runs": arguments.runs,
        }
        write_json(arguments.json, measured | figures | {"ratio": ratio})
    return 0


def state_of(backbone: str, image_size: int, device: torch.device) -> dict[str, Any]:
    """Return the state of a run in training, but for its few numbers."""
    config = Config.model_validate({"data": {"sl": "none"}, "model": {"backbone": backbone}})
    model = build_model(config, image_size, 100).to(device)
    moments = {
        name: {
            "step": torch.tensor(100.0, device=device),
            "exp_avg": torch.randn_like(parameter),
            "exp_avg_sq": torch.rand_like(parameter),
        }
        for name, parameter in model.named_parameters()
    }
    return {"model": model.state_dict(), "moments": moments, "progress": {"step": 100}}


def measure(state: dict[str, Any], folder: Path, runs: int) -> dict[str, list[float]]:
    """Return [median, low, high] seconds of a save by torch, of our stall, and until ours is verified on the disk."""
    checkpoints = Checkpoints(folder / "checkpoints", {}, keep=2)
    found: dict[str, list[float]] = {"torch_save_s": [], "stall_s": [], "on_disk_s": []}
    for run in range(runs + 1):  # the first of each warms up
        whole = _seconds(lambda: torch_save(state, folder / "state.pt"))
        begun = time.perf_counter()
        stall = _seconds(lambda run=run: checkpoints.save(run, state))
        checkpoints.wait()
        on_disk = time.perf_counter() - begun
        if run > 0:
            for name, seconds in zip(found, (whole, stall, on_disk), strict=True):
                found[name].append(seconds)
    return {name: [median(values), min(values), max(values)] for name, values in found.items()}


def torch_save(state: dict[str, Any], path: Path) -> None:
    """Save as a plain loop does that wants the file whole: to another name, flushed, renamed."""
    with path.with_suffix(".partial").open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    path.with_suffix(".partial").replace(path)


def _seconds(call: Callable[[], None]) -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _parser() -> Parser:
    parser = Parser("python -m benchmarks.checkpoint", "How long a checkpoint holds the training.")
    add = parser.add_argument
    add("--backbone", default="vit_tiny_patch16_224", metavar="NAME", help="timm model (default: %(default)s)")
    add("--image-size", type=int, default=224, metavar="N", help="side in pixels (default: %(default)s)")
    add("--runs", type=int, default=15, metavar="N", help="saves of each kind (default: %(default)s)")
    add("--json", type=Path, metavar="FILE", help="write the figures here")
    work = Path(tempfile.gettempdir()) / f"mixdist-benchmarks-{os.getuid()}"
    add("--work", type=Path, default=work, metavar="DIR", help="disk that is written to (default: %(default)s)")
    return parser


if __name__ == "__main__":
    leave(main)
