"""Frames of a clip by number, exactly: what is asked for is what comes out, whatever the clip's rate or its seams.

Frame n is the n-th that comes out when the clip is decoded from its beginning, and that is how it is found: decode
from the start, let the numbers asked for pass. Far into a clip that is slow, so there its packets are listed first
(no decoding). If they are as many as the frames, all at different times, then the sorted times of the packets are
those of the frames, of a variable rate too; ffmpeg jumps to the last keyframe at or before the first time asked for
and lets those times pass. Otherwise (hidden frames of VP8, AVI, which has no times), or if fewer frames come out than
asked for, the clip is decoded from the start after all.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from mixdist.data.video.command import arguments
from mixdist.data.video.container import AVI, HEAD, container
from mixdist.data.video.probe import LINE, MAX_FRAMES, TIMEOUT_S, Clip, read_list
from mixdist.data.video.process import Content, run, stream

SEEK_FROM = 500  # frames: decoding fewer takes about as long as listing the packets, or less
MAX_OUTPUT = 1 << 30  # bytes of pixels a call
READ_TIMEOUT_S = 300.0
SWS = "flags=bicubic+accurate_rnd+full_chroma_int+bitexact"  # the same pixels on every processor

Pixels = npt.NDArray[np.uint8]


def read_frames(content: bytes | memoryview, clip: Clip, start: int, count: int) -> Pixels:
    """Return frames ``start`` to ``start + count - 1`` at full size; past the end the last one is repeated.

    Args:
        content: the video file.
        clip: what ``probe`` says of it.
        start: number of the first frame, from 0, below ``clip.frames``.
        count: how many, at least 1.

    Returns:
        uint8 [count, height, width, 3], RGB.

    Raises:
        ValueError: not a video, damaged, or over a limit.
        UserError: no ffmpeg.
    """
    return _read(content, start, count, clip.frames, (clip.height, clip.width), _full_size(clip))


def load_clip(
    content: bytes | memoryview, start: int, count: int, size: int, frames: int | None = None
) -> npt.NDArray[np.uint8]:
    """Return ``count`` frames from ``start`` as squares: the shorter side scaled to ``size``, the centre cropped.

    The geometry is that of ``images.fit``. ffmpeg scales (bicubic, antialiased), as at full size the pixels would take
    longer through the pipe than the decoding takes. Past the end the last frame is repeated.

    Args:
        content: the video file.
        start: number of the first frame, from 0.
        count: how many, at least 1.
        size: pixels of a side.
        frames: how many the clip has, from the index; without it, a start far into a clip is not jumped to.

    Returns:
        uint8 [count, size, size, 3], RGB.

    Raises:
        ValueError: not a video, damaged, over a limit, or it has no frame ``start``.
        UserError: no ffmpeg.
    """
    width, height = (f"max({size},round({side}*{size}/min(iw,ih)))" for side in ("iw", "ih"))
    scaled = f"scale=w='{width}':h='{height}':{SWS},format=rgb24"
    cropped = f"crop={size}:{size}:'floor((iw-{size})/2)':'floor((ih-{size})/2)':exact=1"
    return _read(content, start, count, frames, (size, size), f"{scaled},{cropped}")


def sampled_frames(content: Content, clip: Clip, numbers: list[int]) -> Iterator[Pixels]:
    """Yield the frames of these ascending numbers at full size, decoding the clip once; each uint8 [height, width, 3].

    Raises:
        ValueError: damaged, or fewer frames came out than asked for.
        UserError: no ffmpeg.
    """
    chosen = np.zeros(clip.frames, bool)
    chosen[numbers] = True
    edges = np.flatnonzero(np.diff(chosen.astype(np.int8), prepend=0, append=0)).reshape(-1, 2)
    size = clip.height * clip.width * 3
    for part in range(0, len(edges), 64):  # runs of frames a call: one expression of thousands would be slow
        runs = edges[part : part + 64]
        select = "+".join(f"between(n,{first},{end - 1})" for first, end in runs)
        wanted = int((runs[:, 1] - runs[:, 0]).sum())
        command = _command(content, {}, select, _full_size(clip), wanted)
        pending, given = bytearray(), 0
        for piece in stream(command, content, wanted * size, TIMEOUT_S):
            pending += piece
            while len(pending) >= size:
                yield np.frombuffer(bytes(pending[:size]), np.uint8).reshape(clip.height, clip.width, 3)
                del pending[:size]
                given += 1
        if given != wanted:
            raise ValueError(f"{wanted - given} of {wanted} frames did not come out")


def _full_size(clip: Clip) -> str:
    """Return the filters that give RGB; the size is named for clips that change theirs on the way."""
    return f"scale={clip.width}:{clip.height}:{SWS},format=rgb24"


def _read(
    content: bytes | memoryview, start: int, count: int, frames: int | None, shape: tuple[int, int], pixels: str
) -> Pixels:
    size = shape[0] * shape[1] * 3
    if start < 0 or count < 1 or start + count > 2 * MAX_FRAMES or count * size > MAX_OUTPUT:
        raise ValueError(f"{count} frames of {shape[1]} x {shape[0]} pixels from frame {start} are over the limits")
    if frames is not None and start >= frames:
        raise ValueError(f"there is no frame {start}, the clip has {frames}")
    wanted = count if frames is None else min(count, frames - start)
    raw = b""
    if frames is not None and start >= SEEK_FROM:
        raw = _jump(content, start, wanted, frames, size, pixels)
    if len(raw) != wanted * size:
        command = _command(content, {}, f"between(n,{start},{start + wanted - 1})", pixels, wanted)
        raw, _ = run(command, content, wanted * size, READ_TIMEOUT_S)
    found = np.frombuffer(raw[: len(raw) // size * size], np.uint8).reshape(-1, *shape, 3)
    if not len(found) or (frames is not None and len(found) != wanted):
        raise ValueError(f"frame {start + len(found)} did not come out")
    return found[np.minimum(np.arange(count), len(found) - 1)]


def _command(content: Content, options_in: dict[str, str | None], select: str, pixels: str, count: int) -> list[str]:
    options_out = {"vf": f"select='{select}',{pixels}", "f": "rawvideo", "frames:v": count}
    return arguments(content, options_in, options_out)


def _jump(content: bytes | memoryview, start: int, count: int, frames: int, size: int, pixels: str) -> bytes:
    """Return the frames from a keyframe on, or nothing where the packets do not tell their times."""
    if container(bytes(content[:HEAD])) is AVI:
        return b""
    listed, _ = run(
        arguments(content, {}, {"c": "copy", "f": "framecrc"}), content, LINE * (2 * MAX_FRAMES), READ_TIMEOUT_S
    )
    _, packets = read_list(listed.decode())
    times: list[Fraction] = sorted({packet.time for packet in packets})
    keys = [packet.time for packet in packets if packet.key and packet.time <= times[start]]
    if not len(times) == len(packets) == frames or max(keys, default=times[0]) <= max(times[0], Fraction(0)):
        return b""
    end = start + count
    after = times[end] if end < frames else times[-1] + 1
    first, last = (times[start - 1] + times[start]) / 2, (times[end - 1] + after) / 2
    options = {"ss": _microseconds(max(keys)), "seek_timestamp": "1", "noaccurate_seek": None}
    command = _command(content, options, f"between(t,{float(first):.9f},{float(last):.9f})", pixels, count)
    return run(command, content, count * size, READ_TIMEOUT_S)[0]


def _microseconds(time: Fraction) -> str:
    """Round up, so that the keyframe of this time is not after it."""
    return f"{math.ceil(time * 1_000_000) / 1_000_000:.6f}"
