"""Run ffmpeg so that it can neither hang nor flood: deadline, bounded output and messages, killed as a group."""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from mixdist.data.video.program import environment

Content = bytes | memoryview | Path  #: a video in memory, or the file that holds it

MESSAGES = 4096  # bytes of stderr that are kept; the rest is read and dropped, so that nobody waits
BLOCK = 1 << 20


@contextmanager
def opened(content: Content) -> Iterator[BinaryIO]:
    """Give a video as a file that can be sought in, as an MP4 may have its table at the end.

    What is in memory goes into a file without a name: in memory too on Linux, else in the temporary folder.
    """
    if isinstance(content, Path):
        with content.open("rb") as file:
            yield file
        return
    memory = getattr(os, "memfd_create", None)
    with tempfile.TemporaryFile() if memory is None else os.fdopen(memory("mixdist-video"), "w+b") as file:
        file.write(content)
        file.seek(0)
        yield file


def run(command: list[str], content: Content, limit: int, seconds: float) -> tuple[bytes, str]:
    """Run a command to its end and return its output and what it said on stderr; see ``stream``."""
    messages = bytearray()
    output = b"".join(stream(command, content, limit, seconds, messages))
    return output, messages.decode(errors="replace")


def stream(
    command: list[str], content: Content, limit: int, seconds: float, messages: bytearray | None = None
) -> Iterator[bytes]:
    """Run a command with a video as its stdin and yield its output in pieces.

    When the iteration ends, by an error or because the caller leaves it too, no process of the command's group lives.

    Args:
        command: program and arguments; no shell sees them.
        content: what the command reads as ``fd:``.
        limit: bytes of output it may give.
        seconds: time it may take.
        messages: gets the first ``MESSAGES`` bytes of its stderr.

    Raises:
        ValueError: it failed, or passed a limit; the message holds its own first words.
    """
    said = bytearray() if messages is None else messages
    deadline = time.monotonic() + seconds
    with opened(content) as file, _started(command, file) as process:
        for piece in _pieces(process, said, deadline, seconds):
            limit -= len(piece)
            if limit < 0:
                raise ValueError("more output than the video's size allows")
            yield piece
        try:
            code = process.wait(max(deadline - time.monotonic(), 0))
        except subprocess.TimeoutExpired as error:
            raise _late(seconds) from error
    if code != 0:
        raise ValueError(first_words(said.decode(errors="replace")) or f"ffmpeg ended with exit code {code}")


def first_words(messages: str) -> str:
    """Return the first line of ffmpeg's messages without the address of the part that speaks ("[mov @ 0x55…]")."""
    line = next((line for line in messages.splitlines() if line.strip()), "")
    return line.rpartition("] ")[2].strip()[:200] if line.startswith("[") else line.strip()[:200]


@contextmanager
def _started(command: list[str], stdin: BinaryIO) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        command,
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError, PermissionError):  # nobody left (macOS: only the ended leader left)
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for pipe in (process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()


def _pieces(process: subprocess.Popen[bytes], said: bytearray, deadline: float, seconds: float) -> Iterator[bytes]:
    """Yield stdout and collect stderr until both are closed."""
    assert process.stdout is not None
    assert process.stderr is not None
    with selectors.DefaultSelector() as selector:
        for pipe in (process.stdout, process.stderr):
            selector.register(pipe, selectors.EVENT_READ)
        while selector.get_map():
            left = deadline - time.monotonic()
            if left <= 0:
                raise _late(seconds)
            for key, _ in selector.select(left):
                piece = os.read(key.fd, BLOCK)
                if not piece:
                    selector.unregister(key.fileobj)
                elif key.fileobj is process.stdout:
                    yield piece
                else:
                    said += piece[: max(MESSAGES - len(said), 0)]


def _late(seconds: float) -> ValueError:
    return ValueError(f"ffmpeg did not end within {seconds:g} s")
