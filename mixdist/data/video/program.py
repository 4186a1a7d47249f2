"""Find the ffmpeg program: the system's, or the one that the package imageio-ffmpeg brings."""

from __future__ import annotations

import os
import shutil
import subprocess
from functools import cache

from mixdist.errors import UserError

WAY_OUT = "pip install 'mixdist[ffmpeg]', or install ffmpeg 6.0 or later"


def find_ffmpeg() -> str:
    """Return the path of a usable ffmpeg: that on the PATH, else imageio-ffmpeg's.

    Usable means that it knows the ``fd`` protocol (ffmpeg 6.0): with that as the only protocol allowed, no file
    that a video names can be opened.

    Raises:
        UserError: there is none.
    """
    on_path = shutil.which("ffmpeg")
    if on_path is not None and _knows_fd(on_path):
        return on_path
    packaged = _packaged()
    if packaged is not None and _knows_fd(packaged):
        return packaged
    found = f"; {on_path} is too old or does not start" if on_path else ""
    raise UserError(f"videos need the ffmpeg program, which is missing{found}: {WAY_OUT}")


def environment() -> dict[str, str]:
    """Return what ffmpeg gets to see of the environment: where to find its libraries, and nothing else."""
    kept = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
    return {name: os.environ[name] for name in kept if name in os.environ} | {"LC_ALL": "C"}


def _packaged() -> str | None:
    try:
        from imageio_ffmpeg import get_ffmpeg_exe

        return str(get_ffmpeg_exe())
    except (ImportError, RuntimeError):  # no package, or a package without a program for this machine
        return None


@cache
def _knows_fd(program: str) -> bool:
    try:
        done = subprocess.run(
            [program, "-v", "error", "-protocols"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment(),
            timeout=60,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return b"fd" in done.stdout.split()
