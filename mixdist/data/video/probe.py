"""What a clip is: its frames are counted by decoding it once, as what its header says of them need not be true."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from mixdist.data.decode import refuse_bomb
from mixdist.data.video.command import MAX_SECONDS, arguments
from mixdist.data.video.process import Content, first_words, run

MAX_FRAMES = 100_000
TIMEOUT_S = 1800.0  # for a whole clip, of MAX_FRAMES at most
LINE = 200  # bytes: more than ffmpeg writes of a frame
CUT_SHORT = ("ended prematurely", "partial file")  # ffmpeg says so, and ends as if all was well


@dataclass(frozen=True)
class Clip:
    """A video stream that decodes."""

    width: int  #: pixels, of the first frame, upright
    height: int
    frames: int
    milliseconds: int  #: from the first frame's time to the end of the last one
    times: npt.NDArray[np.float64] = field(repr=False, compare=False)  #: seconds from the first frame; shape [frames]


@dataclass(frozen=True)
class Entry:
    """A packet or frame as ffmpeg's framecrc lists it; times in seconds, as the container has them."""

    time: Fraction
    duration: Fraction
    key: bool


def probe(content: Content) -> Clip:
    """Decode a clip once and return its size, number of frames and times.

    Raises:
        ValueError: not a video, damaged, cut short, or over a limit (``MAX_FRAMES``, ``MAX_SECONDS``, pixels).
        UserError: no ffmpeg.
    """
    command = arguments(
        content,
        {"xerror": None},
        {"f": "framecrc", "c:v": "rawvideo", "enc_time_base": "1/1000000", "frames:v": MAX_FRAMES + 1},
    )
    output, messages = run(command, content, LINE * (MAX_FRAMES + 10), TIMEOUT_S)
    if any(words in messages for words in CUT_SHORT):
        raise ValueError(f"it is cut short ({first_words(messages)})")
    size, entries = read_list(output.decode())
    if size is None or not entries:
        raise ValueError(first_words(messages) or "it holds no frames")
    if len(entries) > MAX_FRAMES:
        raise ValueError(f"more than {MAX_FRAMES} frames; cut it into shorter clips")
    width, height = size
    refuse_bomb(height, width)
    length = entries[-1].time + entries[-1].duration - entries[0].time
    if length > MAX_SECONDS:
        raise ValueError(f"{float(length):.0f} s are over the limit of {MAX_SECONDS} s; cut it into shorter clips")
    times = np.array([float(entry.time - entries[0].time) for entry in entries])
    return Clip(width, height, len(entries), max(1, round(length * 1000)), times)


def read_list(text: str) -> tuple[tuple[int, int] | None, list[Entry]]:
    """Read the output of ffmpeg's framecrc: the size (width, height) and an entry for each frame or packet."""
    unit = Fraction(*map(int, found[1].split("/"))) if (found := re.search(r"^#tb 0: (\d+/\d+)", text, re.M)) else None
    size = re.search(r"^#dimensions 0: (\d+)x(\d+)", text, re.M)
    if unit is None or size is None:
        return None, []
    rows = [line.split(",") for line in text.splitlines() if line and not line.startswith("#")]
    entries = [Entry(int(row[2]) * unit, int(row[3]) * unit, "F=0x" not in row[-1]) for row in rows]
    return (int(size[1]), int(size[2])), entries
