"""`mixdist plan`: what a run will do and take, before anything is booked."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from mixdist.arguments import OwnOptions, written
from mixdist.config.read import read_config
from mixdist.data.open import resident_bytes
from mixdist.data.packing.summary import plain_or_terminal
from mixdist.data.samples import find_samples
from mixdist.errors import UserError
from mixdist.files import write_json
from mixdist.model.groups import parameter_groups
from mixdist.model.mixmodel import build_model
from mixdist.plan import make_plan
from mixdist.planning.curves import draw
from mixdist.planning.forecast import Sizes, as_dict, forecast, memory, merged_pass_saving
from mixdist.planning.probe import probe
from mixdist.planning.text import Told, print_forecast
from mixdist.world import World

PROGRAM = "mixdist plan"
HELP = f"""\
{PROGRAM} [--ranks N] [--speed X] [--probe-seconds S] [--json FILE] [--png FILE] and all that mixdist train takes:
phases, steps, learning rates, operations, memory and hours of a run, without training it (docs/planning.md).
  --ranks N          processes that will train, one a GPU (default: this machine's GPUs, or 1)
  --speed X          images a second that one rank trains in the most expensive phase, instead of a probe
  --probe-seconds S  how long steps of the run are timed here (default: 60); 0: no times
  --json FILE        write all figures
  --png FILE         draw learning rates and α

"""


def main(argv: Sequence[str] | None = None) -> int:
    """Print what the run will take; return the exit code.

    Raises:
        UserError: see `read_config`, `find_samples` and `make_plan`; a number out of range, or a file that cannot be
            written.
    """
    options, rest = _parse(list(sys.argv[1:] if argv is None else argv))
    config = read_config(rest, PROGRAM, options.flags)
    device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    here = World.alone(device)
    samples = find_samples(config)
    plan = make_plan(config, samples.counts, options.ranks)
    share = -(-config.train.batch // options.ranks)
    model = build_model(config, samples.image_size, samples.counts.classes)
    named = dict(model.named_parameters())
    parameters = {group: sum(named[name].numel() for name in names) for group, names in parameter_groups(model).items()}
    probed = probe(config, samples, share, here, 0 if options.speed else options.probe_seconds)
    sizes = Sizes(options.ranks, share, parameters, resident_bytes(config, samples, device))
    phases = forecast(plan, probed, share, options.speed)
    held, saving = memory(config, plan, probed, sizes), merged_pass_saving(plan, probed)
    figures = as_dict(phases, held, saving, options.ranks)
    print_forecast(
        plain_or_terminal(), config, samples, plan, Told(phases, held, sizes, figures, _where(options, device))
    )
    if options.png:
        with written("--png", options.png):
            draw(plan, options.png)
    if options.json:
        with written("--json", options.json):
            write_json(options.json, {"plan": plan.as_dict(), "parameters": parameters, **figures})
    return 0


def _parse(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    parser = OwnOptions(PROGRAM, HELP)
    parser.add_argument("--ranks", type=int, default=max(1, torch.cuda.device_count()))
    parser.add_argument("--speed", type=float)
    parser.add_argument("--probe-seconds", type=float, default=60.0)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--png", type=Path)
    options, rest = parser.split(argv)
    if options.ranks < 1:
        raise UserError(f"--ranks {options.ranks} is out of range; it should be 1 or more")
    if options.speed is not None and not 0 < options.speed < float("inf"):
        raise UserError(
            f"--speed {options.speed} is out of range; it should be above 0, in images a second of one rank"
        )
    if not 0 <= options.probe_seconds < float("inf"):
        raise UserError(f"--probe-seconds {options.probe_seconds} is out of range; it should be 0 or more")
    return options, rest


def _where(options: argparse.Namespace, device: torch.device) -> str:
    if options.speed:
        return f"at {options.speed:g} images/s a rank in the most expensive phase (--speed)"
    if not options.probe_seconds:
        return "no times: --probe-seconds 0"
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "this CPU"
    return f"timed on {name}; loading, evaluation, checkpoints and the ranks' all-reduce come on top"
