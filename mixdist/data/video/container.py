"""Recognise a video file by its first bytes: what decides how ffmpeg reads it, never the file's name.

ffmpeg is told the container and guesses nothing, so that a playlist (HLS, concat, DASH) is not followed, whatever it
is called.
"""

from __future__ import annotations

from dataclasses import dataclass

HEAD = 4096  # bytes that tell the container
STILL_BRANDS = (b"avif", b"avis", b"heic", b"heix", b"heif", b"mif1", b"msf1")


@dataclass(frozen=True)
class Container:
    """A kind of file that is read."""

    demuxer: str  #: ffmpeg's name for it
    extension: str  #: what a shard calls it


MP4 = Container("mov", "mp4")  # QuickTime files too
WEBM = Container("matroska", "webm")
MATROSKA = Container("matroska", "mkv")
AVI = Container("avi", "avi")


def container(head: bytes) -> Container:
    """Recognise MP4, QuickTime, WebM, Matroska and AVI by the first ``HEAD`` bytes of a file.

    Raises:
        ValueError: it is none of these.
    """
    kind = head[4:8]
    if kind == b"ftyp" and head[8:12] not in STILL_BRANDS:
        return MP4
    if kind in (b"moov", b"mdat", b"wide"):  # QuickTime of before 2001
        return MP4
    if head.startswith(b"\x1a\x45\xdf\xa3"):
        return WEBM if b"\x42\x82\x84webm" in head[:64] else MATROSKA  # the DocType, four bytes long
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        return AVI
    raise ValueError("not an MP4, QuickTime, WebM, Matroska or AVI file" if head else "the file is empty")
