"""What becomes of the videos of a source: left out, taken apart into images, or kept whole as clips."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from hashlib import sha256
from pathlib import Path

import numpy as np
import simplejpeg
from rich.progress import Progress

from mixdist.data.faults import Fault
from mixdist.data.packing.encode import MAX_BYTES, MAX_SIDE, Encoded, channel_sums, encode, read_metadata
from mixdist.data.packing.folders import Sample
from mixdist.data.packing.keys import unique_keys
from mixdist.data.packing.reencode import Encoding
from mixdist.data.packing.sources import Source, is_place
from mixdist.data.packing.unusable import ADVICE, or_fault
from mixdist.data.video.container import HEAD, container
from mixdist.data.video.frames import sampled_frames
from mixdist.data.video.probe import Clip, probe
from mixdist.data.video.program import find_ffmpeg
from mixdist.errors import DataError, UserError

FRAMES, CLIPS = "frames", "clips"
FPS = 1.0
JPEG_QUALITY = 95
MEASURED = 8  # frames of a clip, evenly spaced, that count for the channel statistics


@dataclass(frozen=True)
class VideoOptions:
    """How `mixdist pack` treats videos."""

    kept: str | None = None  #: "frames", "clips" or None: left out
    fps: float | None = None  #: frames taken of each second; None: FPS

    def check(self, source: str) -> None:
        """Refuse contradictions, values out of range and sources without videos with a ``UserError``."""
        if self.kept not in (None, FRAMES, CLIPS):
            raise UserError(f"--video {self.kept} is unknown; it should be {FRAMES} or {CLIPS}")
        if self.fps is not None and self.kept != FRAMES:
            raise UserError(f"--fps {self.fps:g} belongs to --video {FRAMES}; add that, or leave it out")
        if self.fps is not None and not 0 < self.fps <= 1000:
            raise UserError(f"--fps {self.fps:g} is out of range; it should be above 0, up to 1000")
        if self.kept is not None and not is_place(source):
            raise UserError(
                f"--video {self.kept} makes no sense for SOURCE {source}, which has no videos; it belongs to folders "
                f"and tables; leave it out"
            )

    @property
    def rate(self) -> float | None:
        """Frames taken of each second, where videos are taken apart."""
        return (self.fps or FPS) if self.kept == FRAMES else None


@contextmanager
def without_videos(
    source: Source, options: VideoOptions, out: Path, workers: int, progress: Progress
) -> Iterator[Source]:
    """Give the source with its videos left out, taken apart into images, or as clips, as the options say.

    The images lie in a folder beside ``out``, OUT.frames.partial, until the block ends. Videos that cannot be taken
    apart are left out, and are among the source's faults.

    Raises:
        UserError: nothing is left of the source or of one of its classes, no ffmpeg, or the disk refuses.
    """
    if not any(sample.video for samples in source.splits.values() for sample in samples):
        yield source
    elif options.rate is None:
        yield source if options.kept == CLIPS else _left_out(source)
    else:
        find_ffmpeg()  # before anything is made
        target = out.resolve()
        folder = target.with_name(target.name + ".frames.partial")
        shutil.rmtree(folder, ignore_errors=True)  # of a process that was killed
        try:
            try:
                folder.mkdir(parents=True)
                apart = _apart(source, partial(_take_apart, folder=folder, fps=options.rate), workers, progress)
            except OSError as error:
                raise UserError(f"{folder} cannot be written: {error}") from error
            yield apart
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _left_out(source: Source) -> Source:
    splits = {name: [sample for sample in samples if not sample.video] for name, samples in source.splits.items()}
    for name, samples in splits.items():
        labels = {sample.label for sample in samples}
        emptied = [label for label in {sample.label for sample in source.splits[name]} - labels if label >= 0]
        if not samples or emptied:
            what = f"class {source.classes[min(emptied)]}" if emptied else f"the {name} split"
            raise UserError(f"{what} of {source.name} holds videos only; add --video frames or --video clips")
    videos = [sample for samples in source.splits.values() for sample in samples if sample.video]
    counted = Counter(Path(sample.path).suffix.lower() for sample in videos)
    return replace(source, splits=splits, left_out=source.left_out + counted)


def _apart(source: Source, take_apart: Callable[[Sample], list[Sample]], workers: int, progress: Progress) -> Source:
    splits = {}
    faults = list(source.faults)
    with ThreadPoolExecutor(workers) as pool:
        try:
            for name, samples in source.splits.items():
                found = pool.map(partial(or_fault, take_apart), samples)
                parts = list(progress.track(found, len(samples), description=f"videos of {name}"))
                faults += [part for part in parts if isinstance(part, Fault)]
                images = [image for part in parts if not isinstance(part, Fault) for image in part]
                keys = unique_keys(image.key for image in images)
                splits[name] = [replace(image, key=key) for key, image in zip(keys, images, strict=True)]
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return replace(source, splits=splits, faults=tuple(faults))


def _take_apart(sample: Sample, folder: Path, fps: float) -> list[Sample]:
    """Write the first frame of every 1 / ``fps`` seconds of a video as JPEG; the key ends in the frame's number."""
    if not sample.video:
        return [sample]
    path = Path(sample.path)
    below = folder / sha256(os.fsencode(path)).hexdigest()[:16]
    images = []
    try:
        clip = probe(path)
    except (OSError, ValueError) as error:
        raise _unreadable(sample, error) from error
    numbers = _frame_numbers(clip, fps)
    below.mkdir(exist_ok=True)  # a link may lead to the same video
    try:
        for number, frame in zip(numbers, sampled_frames(path, clip, numbers), strict=True):
            image = below / f"{number:06d}.jpg"
            image.write_bytes(
                simplejpeg.encode_jpeg(np.ascontiguousarray(frame), quality=JPEG_QUALITY, colorsubsampling="444")
            )
            images.append(replace(sample, key=f"{sample.key}_{number:06d}", path=str(image)))
    except ValueError as error:
        raise _unreadable(sample, error) from error
    return images


def _frame_numbers(clip: Clip, fps: float) -> list[int]:
    """Return the first frame at or after the beginning of each 1 / ``fps`` seconds, by the frames' own times."""
    ticks = np.floor(clip.times * fps + 1e-6).astype(np.int64)  # times are in microseconds: 0.333333 s is a third
    found: list[int] = np.flatnonzero(np.diff(ticks, prepend=-1) > 0).tolist()
    return found


def encode_sample(sample: Sample, encoding: Encoding) -> Encoded:
    """Encode an image (``encode``) or a clip (``encode_clip``), whichever the sample is."""
    return encode_clip(sample) if sample.video == sample.path else encode(sample, encoding)


def encode_clip(sample: Sample) -> Encoded:
    """Read a video, decode it once, and keep it as it is.

    Raises:
        DataError: the video or its .json file cannot be read; the message names it.
        UserError: no ffmpeg.
    """
    try:
        encoded = examine_clip(Path(sample.path).read_bytes())
    except (OSError, ValueError) as error:
        raise _unreadable(sample, error) from error
    return replace(encoded, metadata=read_metadata(sample.metadata))


def examine_clip(content: bytes) -> Encoded:
    """Decode the bytes of a video once, and say what index and manifest hold of it.

    Raises:
        ValueError: it is no video of a known container, damaged, or larger than the index can hold.
        UserError: no ffmpeg.
    """
    clip = probe(content)
    if max(clip.height, clip.width) > MAX_SIDE or len(content) > MAX_BYTES:
        raise ValueError(f"{len(content)} bytes are more than the index can hold; cut it into shorter clips")
    extension = container(content[:HEAD]).extension
    numbers = sorted(set(np.linspace(0, clip.frames - 1, MEASURED).round().astype(int).tolist()))
    sums = sum(channel_sums(frame) for frame in sampled_frames(content, clip, numbers))
    assert not isinstance(sums, int)
    return Encoded(
        content, extension, clip.height, clip.width, sums, None, clip.frames, clip.milliseconds, len(numbers)
    )


def _unreadable(sample: Sample, error: Exception) -> DataError:
    return DataError(f"{sample.origin}video {sample.path} cannot be read: {error}{ADVICE}")
