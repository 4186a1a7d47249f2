"""`mixdist reproduce pass-timing`: what a pass of each objective costs, beside Sec. 3.2.1 of the paper.

The three passes go over one model in one process and take turns within each round, so that a machine whose clock moves
cannot favour one of them; ratios are taken within a round, and medians over rounds.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
import yaml

import mixdist
from mixdist.arguments import OwnOptions, written
from mixdist.assembly import build_trainer
from mixdist.config.read import read_config
from mixdist.config.schema import Config
from mixdist.data.samples import find_samples
from mixdist.engine.loop import Trainer
from mixdist.engine.passes import open_passes, time_passes
from mixdist.errors import UserError
from mixdist.files import write_json
from mixdist.model.mixmodel import build_model
from mixdist.paper.noise_set import pack_noise
from mixdist.paper.pass_figures import print_figures, summarise
from mixdist.plan import make_plan
from mixdist.runfolder import RunFolder
from mixdist.world import World, read_world

PROGRAM = "mixdist reproduce pass-timing"
BATCH = {"cpu": 16, "cuda": 256}  # Table 12 has 256, of which a CPU would take a minute a step
SIZE = 32  # pixels, as CIFAR's
ONE_EPOCH_EACH = ["--method.ssl_epochs=2", "--method.sl_epochs=2", "--method.mix_ratio=0.5"]
HELP = f"""\
{PROGRAM} [--rounds N] [--steps N] [--device D] [--threads N] [--json FILE] and all that mixdist train takes:
times the ssl, sl and mix passes of one model, in turn, by the engine's own updater (docs/pass-timing.md).
  --rounds N   rounds, of which the medians are taken (default: 7)
  --steps N    updates of each pass in a round (default: 1)
  --device D   auto, cpu or cuda (default: auto)
  --threads N  of torch on a CPU (default: torch's own)
  --json FILE  write all figures
By default the paper's ViT-T at 256 tokens (32 px, patch 2), a batch of 256 on a GPU and 16 on a CPU, random pixels.
With --method.ssl_masking input also an SSL pass that masks its input (docs/input-masking.md).
Another model or batch: --model.backbone resnet18, --train.batch 64; images of a set instead: --data.sl SET.

"""


def main(argv: Sequence[str] | None = None) -> int:
    """Time the passes, print them beside the paper's and write what was asked for; return the exit code.

    Raises:
        UserError: see `read_config`; a number out of range, no such device, several ranks, a file that cannot be
            written.
    """
    options, rest = _parse(list(sys.argv[1:] if argv is None else argv))
    world = _world(options.device)
    if options.threads:
        torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as work, ExitStack() as held:
        trainer = make_trainer(rest, Path(work), world)
        passes = open_passes(trainer, held)
        rounds = time_passes(passes, options.rounds, options.steps)
        figures = summarise(rounds, {each.name: each.flops() for each in passes})
    head = _head(trainer, options)
    print_figures(head, figures)
    if options.json:
        with written("--json", options.json):
            write_json(options.json, {**head, **figures, "rounds_s": rounds})
    return 0


def make_trainer(argv: list[str], work: Path, world: World, pixels: bool = False) -> Trainer:
    """Build a run of one epoch in each phase; over one batch of random pixels unless a set is given.

    Args:
        argv: of `mixdist train`.
        work: folder for what is made.
        world: of one process.
        pixels: random ones whatever set is given.
    """
    nothing, defaults = str(work / "no-set"), work / "defaults.yaml"
    defaults.write_text(yaml.safe_dump({"data": {"sl": nothing}, "train": {"batch": BATCH[world.device.type]}}))
    if not any(argument.split("=")[0] in ("--model.backbone", "--model.patch_size", "--config") for argument in argv):
        argv = [*argv, "--model.patch_size=2"]
    # The user's settings lie between: defaults give way to them, and they to what makes the run this command's.
    here = ["--config", str(defaults), *argv, *ONE_EPOCH_EACH, f"--run.dir={work / 'run'}", "--data.cache=ram"]
    config = read_config(here, PROGRAM)
    if pixels or config.data.sl == nothing:
        noise = pack_noise(work, config.train.batch, config.data.image_size or SIZE)
        here += [f"--data.sl={noise}", "--data.fraction=1", "--data.labelled_fraction=1"]
        config = read_config(here, PROGRAM)
    _check(config)
    samples = find_samples(config)
    model = build_model(config, samples.image_size, samples.counts.classes)
    folder = RunFolder(config.run.dir)
    folder.open("fresh")
    return build_trainer(config, samples, make_plan(config, samples.counts), model, folder, world)


def _parse(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    parser = OwnOptions(PROGRAM, HELP)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=1)
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--json", type=Path)
    options, rest = parser.split(argv)
    for name in ("rounds", "steps", "threads"):
        if (value := getattr(options, name)) is not None and value < 1:
            raise UserError(f"--{name} {value} is out of range; it should be 1 or more")
    return options, rest


def _world(device: str) -> World:
    if device == "cpu":
        return World.alone(torch.device("cpu"))
    world = read_world()
    if device == "cuda" and world.device.type != "cuda":
        raise UserError("--device cuda: torch finds no GPU here; use --device cpu")
    if world.size > 1:
        raise UserError(f"{PROGRAM} times one process, and this is one of {world.size}; start it without torchrun")
    return world


def _check(config: Config) -> None:
    """Refuse a layout that trains copies: three of them would take turns over three models."""
    if config.parallel.strategy not in ("auto", "ddp"):
        raise UserError(
            f"{PROGRAM}: parallel.strategy {config.parallel.strategy} trains a copy a phase; leave it at ddp, to time "
            f"the passes of one model"
        )


def _head(trainer: Trainer, options: argparse.Namespace) -> dict[str, Any]:
    config, device = trainer.config, trainer.world.device
    backbone = trainer.model.backbone
    return {
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "cpu",
        "threads": torch.get_num_threads(),
        "load_1_min": round(os.getloadavg()[0], 2),
        "versions": {"mixdist": mixdist.__version__, "torch": torch.__version__},
        "backbone": config.model.backbone,
        "image_size": backbone.image_size,
        "places": backbone.grid**2,
        "batch": config.train.batch,
        "precision": trainer.precision.name,
        "rounds": options.rounds,
        "steps": options.steps,
    }
