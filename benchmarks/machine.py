"""What a figure was measured on: the machine and the versions of everything that was measured."""

from __future__ import annotations

import os
import platform
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import mixdist

PACKAGES = (
    *("torch", "torchvision", "numpy", "pillow", "simplejpeg", "webdataset", "litdata", "mosaicml-streaming"),
    *("datasets", "spdl-core", "spdl-io", "nvidia-dali-cuda130", "turboloader"),
    *("ffcv", "numba", "opencv-python-headless"),
)


def measured_on() -> dict[str, Any]:
    """Return the head of a benchmark's JSON: machine, date and versions."""
    date = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return {"machine": machine(), "date": date, "versions": versions()}


def machine() -> dict[str, str | int | float]:
    """Describe this machine."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "cpu": models[0] if models else platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(memory / 1e9, 1),
        "system": platform.platform(),
        "load_1_min": round(os.getloadavg()[0], 2),
    }


def versions() -> dict[str, str]:
    """Return the versions of what is installed of the measured packages."""
    found = {"python": platform.python_version(), "mixdist": mixdist.__version__}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
