"""The arguments of ffmpeg, by ffmpeg-python: what is the same for everything that is asked of a video."""

from __future__ import annotations

from typing import Any

import ffmpeg

from mixdist.data.decode import MAX_PIXELS
from mixdist.data.video.container import HEAD, Container, container
from mixdist.data.video.process import Content
from mixdist.data.video.program import find_ffmpeg

MAX_SECONDS = 4 * 3600  # of a clip
CPU_SECONDS = 3600  # ffmpeg ends itself after these, should its parent be gone

# The decoders that may run; ffmpeg has hundreds, of games of the nineties too.
DECODERS = (
    "h264 hevc vp8 vp9 libvpx libvpx-vp9 av1 libdav1d libaom-av1 mpeg4 mpeg1video mpeg2video h263 msmpeg4 msmpeg4v2 "
    "mjpeg png ffv1 huffyuv prores dvvideo theora wmv1 wmv2 wmv3 vc1 rawvideo libopenh264"
)


def arguments(content: Content, options_in: dict[str, Any], options_out: dict[str, Any]) -> list[str]:
    """Return the command that decodes the first video stream of ``fd:`` (stdin) to stdout on one thread.

    The container is the one that the first bytes show and no other; ``fd`` is the only protocol, so that neither a
    file nor an address that the content names is opened.

    Raises:
        ValueError: not a video file of a known container.
        UserError: no ffmpeg.
    """
    kind = _container(content)
    source = ffmpeg.input(
        "fd:",
        f=kind.demuxer,
        format_whitelist=kind.demuxer,
        protocol_whitelist="fd",
        codec_whitelist=",".join(DECODERS.split()),
        max_pixels=MAX_PIXELS,
        threads=1,
        **options_in,
    )
    target = source.output(
        "pipe:1", map="0:V:0", fps_mode="passthrough", threads=1, **options_out
    )  # V: no cover pictures; passthrough: no frame is doubled or dropped
    limits = ["-nostdin", "-hide_banner", "-v", "error", "-copyts", "-filter_threads", "1"]
    command: list[str] = target.global_args(*limits, "-timelimit", str(CPU_SECONDS)).compile(cmd=find_ffmpeg())
    return command


def _container(content: Content) -> Container:
    if isinstance(content, (bytes, memoryview)):
        return container(bytes(content[:HEAD]))
    with content.open("rb") as file:
        return container(file.read(HEAD))
