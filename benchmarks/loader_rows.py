"""Which loaders are measured, at which tasks, what each needs, and where one does less work than the others."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from typing import Any

TASKS = ("decode", "augment", "cached")
JPEGS = ("decode", "augment")  # the tasks of everything that reads encoded images


@dataclass(frozen=True)
class Row:
    """One loader in one way of using it."""

    name: str
    way: str  #: MODULE:FUNCTION that yields its batches
    needs: str | None = None  #: module that is imported for it, where it is not a dependency of mixdist
    package: str = ""  #: what to install for it
    source: str = "packed"  #: folder of the work folder that it reads
    writer: str | None = None  #: MODULE:FUNCTION that writes this folder
    tasks: tuple[str, ...] = JPEGS
    decoded: str = "uint8"  #: dtype of its batches in `decode` and `cached`
    differs: dict[str, str] = field(default_factory=dict)  #: by task, how its work is not that of the others

    @property
    def missing(self) -> str | None:
        """Why the row cannot be measured here, or None."""
        if self.needs is None or _installed(self.needs):
            return None
        return f"not installed: pip install {self.package}"


def _installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # not even the package that it is in
        return False


def resolve(name: str) -> Any:
    """Import a MODULE:FUNCTION."""
    module, _, function = name.partition(":")
    return getattr(import_module(module), function)


_PEERS = "benchmarks.peers"
_NOT_BICUBIC = "resizes by area, not antialiased bicubic"
_BILINEAR = "resizes bilinearly, not antialiased bicubic"
_RECODED = "reads JPEGs that it encoded itself"

ROWS = (
    Row("mixdist", "benchmarks.loader_mixdist:batches", tasks=TASKS),
    Row("webdataset", f"{_PEERS}.webdataset_rows:default"),
    Row("webdataset_fast", f"{_PEERS}.webdataset_rows:fast"),
    Row("imagefolder", f"{_PEERS}.imagefolder:default", source="folder"),
    Row("imagefolder_fast", f"{_PEERS}.imagefolder:fast", source="folder"),
    Row(
        "litdata",
        f"{_PEERS}.litdata_rows:default",
        needs="litdata",
        package="litdata",
        source="litdata",
        writer=f"{_PEERS}.litdata_rows:prepare",
    ),
    Row(
        "litdata_fast",
        f"{_PEERS}.litdata_rows:fast",
        needs="litdata",
        package="litdata",
        source="litdata_fast",
        writer=f"{_PEERS}.litdata_rows:prepare_bytes",
    ),
    Row(
        "mds",
        f"{_PEERS}.mds:default",
        needs="streaming",
        package="mosaicml-streaming",
        source="mds",
        writer=f"{_PEERS}.mds:prepare",
    ),
    Row(
        "mds_fast",
        f"{_PEERS}.mds:fast",
        needs="streaming",
        package="mosaicml-streaming",
        source="mds_fast",
        writer=f"{_PEERS}.mds:prepare_bytes",
    ),
    Row(
        "hf_datasets",
        f"{_PEERS}.hf_datasets:default",
        needs="datasets",
        package="datasets",
        source="hf_datasets",
        writer=f"{_PEERS}.hf_datasets:prepare",
    ),
    Row(
        "hf_datasets_fast",
        f"{_PEERS}.hf_datasets:fast",
        needs="datasets",
        package="datasets",
        source="hf_datasets",
        writer=f"{_PEERS}.hf_datasets:prepare",
    ),
    Row("spdl", f"{_PEERS}.spdl_rows:default", needs="spdl.io", package="spdl", source="folder"),
    Row("spdl_fast", f"{_PEERS}.spdl_rows:fast", needs="spdl.io", package="spdl", source="folder"),
    Row("dali", f"{_PEERS}.dali:batches", needs="nvidia.dali", package="nvidia-dali-cuda130", source="folder"),
    Row(
        "turboloader",
        f"{_PEERS}.turboloader_rows:batches",
        needs="turboloader",
        package="turboloader",
        source="turboloader",
        writer=f"{_PEERS}.turboloader_rows:prepare",
        decoded="float32",
        differs={"decode": "makes float32 batches, not uint8", "augment": _BILINEAR},
    ),
    Row(
        "ffcv_jpg",
        f"{_PEERS}.ffcv_rows:batches",
        needs="ffcv",
        package="ffcv (with pkg-config, libopencv-dev and libturbojpeg0-dev)",
        source="ffcv_jpg",
        writer=f"{_PEERS}.ffcv_rows:prepare_jpg",
        differs={"decode": _RECODED, "augment": f"{_RECODED}; {_NOT_BICUBIC}"},
    ),
    Row(
        "ffcv_raw",
        f"{_PEERS}.ffcv_rows:batches",
        needs="ffcv",
        package="ffcv (with pkg-config, libopencv-dev and libturbojpeg0-dev)",
        source="ffcv_raw",
        writer=f"{_PEERS}.ffcv_rows:prepare_raw",
        tasks=TASKS,
        differs={"decode": "decodes nothing: raw pixels", "augment": f"decodes nothing: raw pixels; {_NOT_BICUBIC}"},
    ),
    Row(
        "limit",
        f"{_PEERS}.limit:decode_only",
        tasks=("decode",),
        differs={"decode": "decodes bytes in memory, makes no batch"},
    ),
)
