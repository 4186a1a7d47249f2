"""The work folder: a data set cut to the benchmark's images, in the format of every loader, each written once.

`python -m benchmarks.loader_formats WRITER PACKED OUT` writes one loader's format in a process of its own.
"""

from __future__ import annotations

import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import numpy as np

from benchmarks.loader_rows import Row, resolve
from mixdist.data.decode import decode
from mixdist.data.fetch import Fetcher
from mixdist.data.index import MANIFEST, Split
from mixdist.data.open_set import open_set
from mixdist.data.packing.division import PackOptions
from mixdist.data.packing.pack import pack
from mixdist.data.packing.staging import staged
from mixdist.errors import DataError, UserError

BATCH = 256
SIZE = 64
SHARDS = 8  # at least: every worker of every loader must find shards to read


def work_folder(data: Path, work: Path, images: int) -> tuple[Path, int]:
    """Prepare `folder` (class folders of JPEG files) and `packed` (a packed set) below a folder for this data.

    Returns:
        That folder, and how many images it holds: at most ``images``, whole batches.

    Raises:
        UserError: the data has fewer labelled 64 x 64 JPEGs than a batch.
    """
    whole = data
    if not (data / MANIFEST).is_file():
        if not data.is_dir():
            raise UserError(f"--data {data} is not a folder; give class folders of images, or a packed set")
        whole = work / f"whole-{_state(data)}"
        if not (whole / MANIFEST).is_file():
            # Nothing is to be tested on; a source with a test folder of its own takes no such option.
            pack(str(data), whole, PackOptions(test_fraction=None if (data / "train").is_dir() else 0.0))
    split = open_set(whole).split("train")
    rows = _usable(split)[:images]
    count = len(rows) // BATCH * BATCH
    if count == 0:
        raise UserError(f"--data {data} has {len(rows)} labelled JPEGs of {SIZE} x {SIZE}; {BATCH} make a batch")
    folder = work / f"{count}-{sha256(split.index.tobytes()).hexdigest()[:12]}"
    if not (folder / "folder").is_dir():
        with staged(folder / "folder") as out:
            _write_files(split, rows[:count], out)
    if not (folder / "packed").is_dir():
        pack(str(folder / "folder"), folder / "packed", PackOptions(test_fraction=0.0, shard_size=-(-count // SHARDS)))
    return folder, count


def write_format(row: Row, folder: Path) -> str | None:
    """Write what a row reads, where it is not there yet; return why that failed, or None."""
    out = folder / row.source
    if row.writer is None or out.is_dir():
        return None
    command = [sys.executable, "-m", "benchmarks.loader_formats", row.writer, str(folder / "packed"), str(out)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    return None if done.returncode == 0 else f"its format could not be written: {last_line(done.stderr)}"


def last_line(text: str) -> str:
    """Return the last line of an error output that says something."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no message"


def _usable(split: Split) -> np.ndarray:
    index = split.index
    fetch = Fetcher(split)
    rows = np.flatnonzero((index["label"] >= 0) & (index["height"] == SIZE) & (index["width"] == SIZE))
    return np.array([row for row in rows.tolist() if fetch(row)[:2] == b"\xff\xd8"], np.int64)


def _write_files(split: Split, rows: np.ndarray, out: Path) -> None:
    fetch = Fetcher(split)
    for row in rows.tolist():
        path = out / f"{split.labels[row]:05d}" / f"{split.index['key'][row].decode()}.jpg"
        path.parent.mkdir(exist_ok=True)
        content = fetch(row)
        if decode(content).shape != (SIZE, SIZE, 3):
            raise DataError(f"{split.describe(row)} is not the {SIZE} x {SIZE} image that its index says")
        path.write_bytes(content)


def _state(data: Path) -> str:
    """Return a short hash that changes when a file below ``data`` is added or removed."""
    folders = sorted(path for path in data.rglob("*") if path.is_dir())
    state = [f"{path} {path.stat().st_mtime_ns}" for path in (data.resolve(), *folders)]
    return sha256("\n".join(state).encode()).hexdigest()[:12]


if __name__ == "__main__":
    with staged(Path(sys.argv[3])) as partial:
        resolve(sys.argv[1])(Path(sys.argv[2]), partial)
