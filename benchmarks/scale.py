"""`python -m benchmarks.scale`: what size costs. Opening a set as a run does, and the time from a start to a batch.

Both are measured in fresh processes, several times; the median and the spread are printed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import numpy as np
import simplejpeg
from rich.console import Console
from rich.table import Table

from benchmarks.entry import leave
from benchmarks.machine import measured_on
from mixdist.arguments import Parser
from mixdist.data.index import FORMAT, MANIFEST, VERSION, index_dtype
from mixdist.data.open_set import open_set
from mixdist.data.packing.division import PackOptions
from mixdist.data.packing.pack import pack
from mixdist.data.packing.staging import staged
from mixdist.errors import UserError
from mixdist.files import write_json

CLASSES = 1000
SHARD_SAMPLES = 10_000
BYTES = 2_000  # of an image in the index that holds no images

# Each prints its figures as JSON. RSS counts the pages of the index file that were read, RssAnon what was allocated.
OPEN_INDEX = """
import json, sys, time
from pathlib import Path
from mixdist.data.open_set import open_set
def memory():
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {name: int(lines[name].split()[0]) * 1024 / 1e6 for name in ("VmRSS", "RssAnon", "VmHWM")}
before, start = memory(), time.perf_counter()
opened = open_set(Path(sys.argv[1]))
opened.fingerprint  # every run makes it: checkpoints hold it
seconds, after = time.perf_counter() - start, memory()
print(json.dumps({
    "open_s": seconds,
    "extra_rss_mb": after["VmRSS"] - before["VmRSS"],
    "extra_allocated_mb": after["RssAnon"] - before["RssAnon"],
    "extra_peak_rss_mb": max(0.0, after["VmHWM"] - before["VmRSS"]),
}))
"""
FIRST_BATCH = """
import json, sys, time
begun = float(sys.argv[2])
from pathlib import Path
from benchmarks.loader_mixdist import batches
imported = time.time()
images, labels = next(batches(Path(sys.argv[1]), "decode", 1, 1))
print(json.dumps({"first_batch_s": time.time() - begun, "of_which_imports_s": imported - begun,
                  "of_which_loader_s": time.time() - imported}), flush=True)
"""


def main(argv: Sequence[str]) -> int:
    """Measure, print, and write what was asked for; return the exit code."""
    arguments = _parser().parse_args(argv)
    for option, value in (("--samples", arguments.samples), ("--images", arguments.images), ("--runs", arguments.runs)):
        if value < 1:
            raise UserError(f"{option} {value} is out of range; it should be 1 or more")
    work = arguments.work or Path(tempfile.gettempdir()) / f"mixdist-benchmarks-{os.getuid()}"
    index = _index_only(work / f"index-{arguments.samples}", arguments.samples)
    images = _images(work / f"images-{arguments.images}", arguments.images)
    figures = {
        f"index of {arguments.samples:,} samples": _repeat(OPEN_INDEX, index, arguments.runs),
        f"first batch of {arguments.images:,} images": _repeat(FIRST_BATCH, images, arguments.runs),
    }
    _print(figures)
    if arguments.json:
        head = measured_on()
        index_figures, batch_figures = figures.values()
        write_json(
            arguments.json,
            head
            | {"samples": arguments.samples, "images": arguments.images}
            | {"index": index_figures, "first_batch": batch_figures},
        )
    return 0


def _index_only(out: Path, samples: int) -> Path:
    """Write a set of ``samples`` rows whose shards are holes: it opens as any other, and takes no space."""
    if out.is_dir():
        return out
    ids = np.arange(samples)
    index = np.zeros(samples, index_dtype(len("n00000000/n00000000_000000000")))
    index["key"] = np.array([f"n{row % CLASSES:08d}/n{row % CLASSES:08d}_{row:09d}" for row in range(samples)], "S")
    index["shard"], within = np.divmod(ids, SHARD_SAMPLES)
    index["offset"], index["size"], index["label"] = within * BYTES, BYTES, ids % CLASSES
    index["height"] = index["width"] = 64
    index["frames"] = 1
    with staged(out) as folder:
        np.save(folder / "train.index.npy", index)
        shards = []
        for shard, count in enumerate(np.bincount(index["shard"]).tolist()):
            name = f"train-{shard:06d}.tar"
            with (folder / name).open("wb") as file:
                file.truncate(count * BYTES)
            shards.append({"name": name, "bytes": count * BYTES, "samples": count, "sha256": "0" * 64})
        per_class = {f"n{label:08d}": int(n) for label, n in enumerate(np.bincount(index["label"], minlength=CLASSES))}
        split = {
            "index": "train.index.npy",
            "samples": samples,
            "labelled": samples,
            "per_class": per_class,
            "shards": shards,
        }
        head = {"format": FORMAT, "version": VERSION, "classes": list(per_class), "image_size": [64, 64]}
        statistics = {"mean": [0.5] * 3, "std": [0.25] * 3}
        described = {"source": {"kind": "class-folders", "name": "generated"}, "options": {}}
        write_json(folder / MANIFEST, head | statistics | {"splits": {"train": split}} | described)
    open_set(out)
    return out


def _images(out: Path, images: int) -> Path:
    """Pack ``images`` JPEGs of 64 x 64: 1,000 different ones, each written as often as it takes."""
    if out.is_dir():
        return out
    random = np.random.default_rng(0)
    gradient = np.add.outer(np.arange(64), np.arange(64))[..., None]
    different = [
        simplejpeg.encode_jpeg((gradient * random.random(3) + random.integers(0, 128, 3)).astype(np.uint8), quality=85)
        for _ in range(min(images, 1000))
    ]
    with tempfile.TemporaryDirectory(dir=out.parent) as source:
        for row in range(images):
            path = Path(source) / f"{row % 100:02d}" / f"{row:07d}.jpg"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(different[row % len(different)])
        pack(source, out, PackOptions(test_fraction=0.0))
    return out


def _repeat(code: str, folder: Path, runs: int) -> dict[str, dict[str, float]]:
    """Run Python code on a folder in ``runs`` fresh processes; return median, low and high of what it prints."""
    found = []
    for _ in range(runs):
        command = [sys.executable, "-c", code, str(folder), str(time.time())]
        found.append(json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
    values = {name: [one[name] for one in found] for name in found[0]}
    return {
        name: {"median": round(median(row), 4), "low": round(min(row), 4), "high": round(max(row), 4)}
        for name, row in values.items()
    }


def _print(figures: dict[str, dict[str, dict[str, float]]]) -> None:
    table = Table("", "", "median", "low", "high")
    for what, rows in figures.items():
        for name, row in rows.items():
            table.add_row(what, name, *(f"{row[key]:.3f}" for key in ("median", "low", "high")))
            what = ""
    Console().print(table)


def _parser() -> Parser:
    parser = Parser("python -m benchmarks.scale", "Measure what the size of a set costs (benchmarks/README.md).")
    add = parser.add_argument
    add("--samples", type=int, default=1_000_000, metavar="N", help="rows of the index (default: 1,000,000)")
    add("--images", type=int, default=100_000, metavar="N", help="images for the first batch (default: 100,000)")
    add("--runs", type=int, default=5, metavar="N", help="fresh processes for each figure (default: %(default)s)")
    add("--json", type=Path, metavar="FILE", help="write the figures here")
    add("--work", type=Path, metavar="DIR", help="where the sets are kept (default: below the temp folder)")
    return parser


if __name__ == "__main__":
    leave(main)
