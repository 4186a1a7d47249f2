"""GPUs, driver and what torch was built for."""

from __future__ import annotations

import shutil
import subprocess

import torch

from mixdist.doctor.finding import Finding

GIB = 2**30


def gpus() -> list[Finding]:
    """Return what torch can train on, and whether it fits the driver."""
    driver = _driver()
    if not torch.cuda.is_available():
        return [_without_gpu(driver)]
    found = [Finding("torch", "ok", f"{torch.__version__} for CUDA {torch.version.cuda}, driver {driver or 'unknown'}")]
    built_for = torch.cuda.get_arch_list()
    for number in range(torch.cuda.device_count()):
        found.append(_gpu(number, built_for))
    return found


def _gpu(number: int, built_for: list[str]) -> Finding:
    properties = torch.cuda.get_device_properties(number)
    free, total = torch.cuda.mem_get_info(number)
    kind = f"sm_{properties.major}{properties.minor}"
    said = f"{properties.name}, {total / GIB:.0f} GiB, {free / GIB:.0f} free, {kind}"
    if not any(_runs(one, properties.major, properties.minor) for one in built_for):
        mend = f"this torch has code for {', '.join(built_for)} only; install a build for {kind} (pytorch.org)"
        return Finding(f"GPU {number}", "fail", said, mend)
    if free < total / 2:
        return Finding(f"GPU {number}", "note", said, "another process holds half of its memory: nvidia-smi names it")
    return Finding(f"GPU {number}", "ok", said)


def _runs(code: str, major: int, minor: int) -> bool:
    """Whether code for sm_80 or compute_80 runs: the one on all of 8.x that are newer, PTX on whatever is newer."""
    kind, _, number = code.partition("_")
    if not number.isdigit():  # sm_90a: for that GPU's own instructions, beside sm_90
        return False
    built = (int(number[:-1]), int(number[-1]))
    return built <= (major, minor) and (kind == "compute" or built[0] == major)


def _without_gpu(driver: str | None) -> Finding:
    said = f"{torch.__version__}, no GPU: training runs on the CPU"
    if driver is None:
        return Finding("torch", "note", said)
    if torch.version.cuda is None:
        mend = "install the CUDA build (pytorch.org)"
        return Finding("torch", "fail", f"{torch.__version__} is built without CUDA, beside driver {driver}", mend)
    mend = (
        f"torch is for CUDA {torch.version.cuda}: update the driver, check CUDA_VISIBLE_DEVICES, and in a container "
        f"start it with --gpus all"
    )
    return Finding("torch", "fail", f"{torch.__version__} finds no GPU, beside driver {driver}", mend)


def _driver() -> str | None:
    """Return the version of the NVIDIA driver, None where there is none."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    query = [program, "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.split()[0] if done.stdout.strip() else None
