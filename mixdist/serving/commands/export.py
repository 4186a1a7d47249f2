"""`mixdist export`: a finished run -> a folder that other programs read, checked against the run on images."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from mixdist.arguments import Parser
from mixdist.data.packing.summary import plain_or_terminal, print_line
from mixdist.serving.examples import examples
from mixdist.serving.export import export
from mixdist.serving.finished_run import read_run
from mixdist.serving.layouts import LAYOUTS


def main(argv: Sequence[str]) -> int:
    """Export a model and say how it compares; return the exit code.

    Raises:
        UserError: see `read_run`, `examples` and `export`.
    """
    options = _parse(argv)
    run = read_run(options.run)
    out = options.out or options.run / f"export-{options.to}"
    pixels, what = examples(run, options.check_on)
    exported = export(run, options.to, out, options.license, pixels)
    console = plain_or_terminal()
    heads = {"inside": "", "separate": ", the head in head.safetensors", "none": ", the backbone alone"}
    accuracy = exported.description.accuracy
    scored = "" if accuracy is None else f", top-1 {accuracy:.2f} % on the run's test split"
    print_line(console, f"exported {options.run} to {out} ({options.to}{heads[exported.description.head]}{scored})")
    print_line(
        console,
        f"on {what}: largest difference to the run's own logits {exported.difference:.2g}, largest logit "
        f"{exported.largest:.2g}",
    )
    if options.license == UNKNOWN:
        print_line(console, "the card names no licence: say under which others may use the model with --license")
    return 0


UNKNOWN = "unknown"  # what model hubs call a licence that nobody has stated


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = Parser("mixdist export", "Write the model of a finished run for other programs.")
    parser.add_argument("run", type=Path, metavar="RUN", help="run folder")
    parser.add_argument(
        "--to", choices=list(LAYOUTS), required=True, help="timm's own layout, safetensors, ONNX, or torch.export's pt2"
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder to write (RUN/export-TO)")
    parser.add_argument(
        "--license", default=UNKNOWN, metavar="NAME", help="for the model card, as apache-2.0 (%(default)s)"
    )
    parser.add_argument(
        "--check-on", metavar="DATA", help="images to compare on, all that mixdist predict takes (the run's test split)"
    )
    return parser.parse_args(argv)
