"""Real video clips for tests: made by ffmpeg from the digits, decoded by PyAV as the independent judge."""

from __future__ import annotations

import io
import subprocess
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import av
import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from mixdist.data.video.program import environment, find_ffmpeg

HEIGHT, WIDTH, RATE = 48, 64, 10
H264 = ("-c:v", "libx264", "-g", "9", "-bf", "2", "-crf", "10", "-pix_fmt", "yuv444p")
VARIABLE = ("-vf", "select='not(mod(n,3))+lt(n,9)+gt(n,30)'", "-fps_mode", "vfr")  # frame times: uneven


def picture(number: int) -> np.ndarray:
    """Return a frame unlike its neighbours: a digit in a tint of its own; uint8 [HEIGHT, WIDTH, 3]."""
    digit = Image.fromarray((_digits()[number % 1797] * 15).astype(np.uint8)).resize((WIDTH, HEIGHT))
    tint = np.array([number * 37 % 200, number * 71 % 200, number * 113 % 200])
    return (np.asarray(digit)[..., None] // 2 + tint // 2).astype(np.uint8)


@cache
def _digits() -> np.ndarray:
    return load_digits().images


def write_clip(path: Path, frames: int, *options: str, first: int = 0, rate: float = RATE) -> Path:
    """Write ``frames`` pictures from number ``first`` on as a video; the suffix and the options decide the format."""
    path.parent.mkdir(parents=True, exist_ok=True)
    raw = b"".join(picture(first + number).tobytes() for number in range(frames))
    source = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{WIDTH}x{HEIGHT}", "-r", str(rate), "-i", "pipe:0"]
    ffmpeg([*source, "-threads", "1", *options, str(path)], raw)
    return path


def ffmpeg(arguments: Sequence[str], content: bytes = b"") -> None:
    """Run ffmpeg to its end."""
    command = [find_ffmpeg(), "-v", "error", "-y", *arguments]
    subprocess.run(command, input=content, env=environment(), check=True, timeout=120)


def judged(content: bytes) -> np.ndarray:
    """Return all frames of a video as PyAV decodes them; uint8 [frames, height, width, 3]."""
    with av.open(io.BytesIO(content)) as video:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)])


def difference(a: np.ndarray, b: np.ndarray) -> float:
    """Return the mean absolute difference of two images in levels of 255."""
    return float(np.abs(a.astype(np.int16) - b.astype(np.int16)).mean())
