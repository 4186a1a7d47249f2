"""A worker process: the module mixdist.data.reading.worker, started by the pool, decodes into the shared memory.

It takes requests from one inherited pipe and answers on another; when the requests end, so does it. No name in the
file system, no semaphore and no torch: a killed training leaves nothing behind, and 60 MB is all that a worker takes.
"""

from __future__ import annotations

import json
import mmap
import signal
import sys
import time
from dataclasses import asdict
from multiprocessing.connection import Connection
from pathlib import Path

from mixdist.data.open_set import open_set
from mixdist.data.reading.memory import Request, Setup
from mixdist.data.reading.reader import SampleReader, Unread
from mixdist.data.remote.node_cache import NodeCache
from mixdist.errors import DataError, MixdistError


def main(requests_fd: int, answers_fd: int, memory_fd: int) -> None:
    """Serve until the requests end."""
    for one in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(one, signal.SIG_IGN)  # sent to the whole job: whether to stop is the training process's affair
    requests, answers = Connection(requests_fd, writable=False), Connection(answers_fd, readable=False)
    setup = Setup(**json.loads(requests.recv_bytes()))
    images, ids = setup.view(mmap.mmap(memory_fd, setup.memory_bytes))
    reader: SampleReader | None = None
    while True:
        try:
            request = Request.unpack(requests.recv_bytes())
        except EOFError:
            return
        began = time.perf_counter()
        unread: list[Unread] = []
        failed: str | None = None
        try:
            reader = reader or _open(setup)
            rows = slice(request.first_row, request.first_row + request.count)
            unread = reader(ids[rows], request.epoch, images[rows])
        except MixdistError as error:
            failed = str(error)
        busy_s = time.perf_counter() - began
        answer = {"unread": [asdict(one) for one in unread], "busy_s": busy_s, "error": failed}
        try:
            answers.send_bytes(json.dumps(answer).encode())
        except BrokenPipeError:
            return


def _open(setup: Setup) -> SampleReader:
    cache = NodeCache(Path(setup.cache), setup.cache_limit) if setup.cache else None
    split = open_set(setup.location, cache).split(setup.split)
    if split.stamp != setup.stamp:  # other images at the sample ids that the run has labels for
        raise DataError(f"{split.place.name} was packed again while this run was reading it; start the run again")
    return SampleReader(split, setup.size, setup.frames, setup.seed)


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:4]))
