"""Raw material of the fuzz corpus: one tiny clip, playlists in the place of clips, and bait that they point at."""

from __future__ import annotations

import random
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from mixdist.data.video.program import environment, find_ffmpeg

MARK = b"mixdist-fuzz-secret"
NAMES = ("mp4", "m4v", "mov", "webm", "mkv", "avi")
FRAMES = 5
# First bytes by which a container is recognised; a playlist behind them reaches ffmpeg.
HEADS = (b"\0\0\0\x18ftypisom\0\0\2\0isomiso2", b"\x1a\x45\xdf\xa3", b"RIFF\xff\xff\0\0AVI ", b"\0\0\0\x08wide")


@cache
def clip(extension: str = "mp4") -> bytes:
    """Return a clip of ``FRAMES`` frames of 16 x 16 pixels; made by ffmpeg once in a process."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"clip.{extension}"
        command = [find_ffmpeg(), "-v", "error", "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", "16x16", "-r", "10"]
        command += ["-i", "pipe:0", "-threads", "1", "-c:v", "mpeg4", "-bitexact", str(path)]
        pixels = random.Random(0).randbytes(16 * 16 * 3 * FRAMES)
        subprocess.run(command, input=pixels, env=environment(), check=True, timeout=60)
        return path.read_bytes()


class Bait:
    """Files of this machine with a mark in them, and an address on it: neither is a case's to open.

    One of the files is a whole clip, so that a playlist that is followed gives frames.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._folder = folder
        self.files = [folder / "secret.mp4", folder / "secret.txt"]
        self.files[0].write_bytes(clip() + b"\0\0\0\x1bfree" + MARK)
        self.files[1].write_bytes(MARK * 100)
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._socket.setblocking(False)
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}/secret.mp4"

    def taken(self, said: str, folders: Iterable[Path]) -> str | None:
        """Say whether the address was asked, or the mark came out: in what was said, or in a file of the folders."""
        try:
            self._socket.accept()[0].close()
            return f"{self.url} was opened"
        except BlockingIOError:
            pass
        if MARK.decode() in said:
            return "a message holds the secret"
        files = (path for folder in folders for path in folder.rglob("*") if path.is_file())
        leaked = next((path for path in files if MARK in path.read_bytes()), None)
        return None if leaked is None else f"{leaked} holds the secret"

    def close(self) -> None:
        """Take it away."""
        self._socket.close()
        shutil.rmtree(self._folder)


def playlist(rng: random.Random, bait: Bait) -> bytes:
    """Return a playlist, of those that ffmpeg follows, which names the bait; some behind the head of a container."""
    path = str(rng.choice(bait.files))
    target = rng.choice((path, f"file:{path}", f"../{Path(path).parent.name}/{Path(path).name}", bait.url))
    target = rng.choice((target, target, f"subfile,,start,0,end,9999,,:{path}", f"concat:{path}|{path}"))
    text = rng.choice(
        (
            f"#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{target}\n#EXT-X-ENDLIST\n",
            f'#EXTM3U\n#EXT-X-MAP:URI="{target}"\n#EXTINF:1,\n{bait.url}\n#EXT-X-ENDLIST\n',
            f"ffconcat version 1.0\nfile '{target}'\n",
            f"file '{target}'\nfile '{bait.url}'\n",
            f"concat:{path}|{bait.url}",
            '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"><Period><AdaptationSet '
            f'mimeType="video/mp4"><Representation id="0"><BaseURL>{target}</BaseURL></Representation></AdaptationSet>'
            "</Period></MPD>",
        )
    )
    return rng.choice((b"", b"", *HEADS)) + text.encode()
