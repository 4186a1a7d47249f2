"""Programs and services that parts of mixdist use: ffmpeg, DeepSpeed, Weights & Biases."""

from __future__ import annotations

import importlib.util
import netrc
import os
import shutil
import socket
import subprocess
from importlib.metadata import version
from urllib.parse import urlsplit

from mixdist.data.video.program import WAY_OUT, find_ffmpeg
from mixdist.doctor.finding import Finding
from mixdist.errors import UserError

CODECS = ("h264", "hevc", "vp9", "av1")
REACH_S = 3.0


def ffmpeg() -> Finding:
    """Return which ffmpeg reads videos, and what it decodes."""
    try:
        program = find_ffmpeg()
        first = _output([program, "-version"]).split(maxsplit=3)
        decoders = _output([program, "-v", "error", "-decoders"])
    except (UserError, OSError, subprocess.SubprocessError):
        return Finding("ffmpeg", "note", "none: images train, videos cannot be packed", WAY_OUT)
    missing = [codec for codec in CODECS if codec not in decoders]
    said = f"{first[2]} at {program}, decodes {', '.join(codec for codec in CODECS if codec not in missing)}"
    if missing:
        return Finding("ffmpeg", "note", said, f"no {', '.join(missing)}: pack such videos with another ffmpeg on PATH")
    return Finding("ffmpeg", "ok", said)


def deepspeed(gpus: int) -> Finding:
    """Return whether DeepSpeed is there, and what its CPU offload would be compiled with; it is not imported."""
    if importlib.util.find_spec("deepspeed") is None:
        return Finding(
            "DeepSpeed",
            "note",
            "not installed: parallel.strategy ddp and fsdp work",
            "pip install 'mixdist[deepspeed]'",
        )
    said = version("deepspeed")
    if gpus and shutil.which("nvcc") is None and "CUDA_HOME" not in os.environ:
        mend = "install the CUDA toolkit or set CUDA_HOME for parallel.offload"
        return Finding("DeepSpeed", "note", f"{said}, no nvcc to compile its operations with", mend)
    return Finding("DeepSpeed", "ok", said)


def wandb() -> Finding:
    """Return whether W&B has a login, and whether its server answers; training goes on without either."""
    url = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai"))
    host, port = url.hostname or "", url.port or (443 if url.scheme == "https" else 80)
    try:
        socket.create_connection((host, port), REACH_S).close()
        reached = f"{host} answers"
    except OSError as error:
        reached = f"{host} cannot be reached ({error.strerror or error})"
    if os.environ.get("WANDB_MODE") == "offline":
        return Finding("W&B", "ok", "offline by WANDB_MODE; wandb sync uploads later")
    if not (os.environ.get("WANDB_API_KEY") or _in_netrc(host)):
        return Finding("W&B", "note", f"no login, {reached}: runs are recorded offline", "wandb login, or nothing")
    if "answers" not in reached:
        return Finding("W&B", "note", f"login found, {reached}: runs are recorded offline", "network, or nothing")
    return Finding("W&B", "ok", f"login found, {reached}")


def _in_netrc(host: str) -> bool:
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def _output(command: list[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout
