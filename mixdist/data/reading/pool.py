"""Pool: worker processes that decode the samples of one split into slots of memory they share with this process.

The memory has no name that a crash could leave behind. Asking and waiting are apart, so that the next steps are
decoded while one trains.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import subprocess
import time
import weakref
from collections import deque
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from multiprocessing.connection import Connection
from typing import NamedTuple

import torch

from mixdist.child import child
from mixdist.data.reading.memory import Request, Setup, anonymous_file
from mixdist.data.reading.reader import Unread
from mixdist.errors import DataError, MixdistError
from mixdist.keyed import Ids

GRACE_S = 1.0  # for workers to end by themselves


class Answer(NamedTuple):
    """What one worker says of its part."""

    unread: list[Unread]
    busy_s: float  #: that it took
    error: str | None  #: of the whole part, as of a shard that cannot be read


@dataclass(eq=False)
class Ticket:
    """Samples asked for, in a slot of their own until it is handed back."""

    slot: int
    count: int
    answers: list[Answer] = field(default_factory=list)  #: of the first workers, then of all
    over: bool = False  #: handed back


class Pool:
    """N workers, and ``slots`` slots that share the rows of the memory evenly."""

    def __init__(self, setup: Setup, workers: int, slots: int) -> None:
        self._rows = setup.rows // slots
        descriptor = anonymous_file(setup.memory_bytes)
        self._memory = mmap.mmap(descriptor, setup.memory_bytes)
        images, self._ids = setup.view(self._memory)
        self._images = torch.from_numpy(images)
        self._free = deque(range(slots))
        self._on_their_way: deque[Ticket] = deque()  #: in the order of asking, in which workers answer
        self.busy_s = 0.0  #: that a worker has spent reading and decoding what has arrived, a mean of all
        self._workers = [_Worker(setup, descriptor) for _ in range(workers)]
        self.close = weakref.finalize(
            self, _close, self._workers
        )  #: ends the workers; at the latest when this one ends
        os.close(descriptor)

    def pin(self) -> None:
        """Let the GPU copy from the slots directly (page-locked memory); where CUDA refuses, copies are slower."""
        address = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        if int(torch.cuda.cudart().cudaHostRegister(address, len(self._memory), 0)):  # type: ignore[no-untyped-call]
            with suppress(RuntimeError):  # the first kernel after a refusal raises the error of it, and so clears it
                torch.ones((), device="cuda")

    def ask(self, ids: Ids, epoch: int) -> Ticket:
        """Have samples decoded, at most a slot of them; each worker takes a contiguous part.

        Waits where all slots are with the workers, for tickets that were handed back before they arrived.

        Raises:
            MixdistError: a worker that died.
        """
        while not self._free:
            self._receive()
        ticket = Ticket(self._free.popleft(), len(ids))
        start = ticket.slot * self._rows
        self._ids[start : start + len(ids)] = ids
        for number, worker in enumerate(self._workers):
            first, last = self._part(number, len(ids))
            worker.send(Request(start + first, last - first, epoch))
        self._on_their_way.append(ticket)
        return ticket

    def wait(self, ticket: Ticket) -> tuple[torch.Tensor, list[Unread]]:
        """Return the images [count · frames, size, size, 3] of a ticket, valid until it is handed back.

        Raises:
            DataError: a shard that cannot be read.
            MixdistError: a worker that died.
        """
        while len(ticket.answers) < len(self._workers):
            self._receive()
        unread: list[Unread] = []
        for number, answer in enumerate(ticket.answers):
            if answer.error is not None:
                raise DataError(answer.error)
            first, _ = self._part(number, ticket.count)
            unread += [replace(one, row=first + one.row) for one in answer.unread]
        start = ticket.slot * self._rows
        return self._images[start : start + ticket.count].flatten(0, 1), unread

    def hand_back(self, ticket: Ticket) -> None:
        """Let the slot be used again, as soon as the workers are done with it; waits for nothing."""
        ticket.over = True
        if len(ticket.answers) == len(self._workers):
            self._free.append(ticket.slot)

    def _receive(self) -> None:
        """Take in all answers to the oldest ticket that lacks some."""
        ticket = self._on_their_way[0]
        for worker in self._workers[len(ticket.answers) :]:
            ticket.answers.append(worker.answer())
            self.busy_s += ticket.answers[-1].busy_s / len(self._workers)
        self._on_their_way.popleft()
        if ticket.over:
            self._free.append(ticket.slot)

    def _part(self, number: int, count: int) -> tuple[int, int]:
        workers = len(self._workers)
        return count * number // workers, count * (number + 1) // workers


class _Worker:
    """One process, and the two pipes to it."""

    def __init__(self, setup: Setup, memory: int) -> None:
        requests_in, requests_out = os.pipe()
        answers_in, answers_out = os.pipe()
        self._process = subprocess.Popen(
            child("mixdist.data.reading.worker", str(requests_in), str(answers_out), str(memory)),
            pass_fds=(requests_in, answers_out, memory),
            stdin=subprocess.DEVNULL,
            env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},  # or NumPy starts a thread a core
        )
        os.close(requests_in)
        os.close(answers_out)
        self._requests, self._answers = Connection(requests_out, readable=False), Connection(answers_in, writable=False)
        self._requests.send_bytes(json.dumps(asdict(setup)).encode())

    def send(self, request: Request) -> None:
        try:
            self._requests.send_bytes(request.pack())
        except BrokenPipeError:
            raise self._died() from None

    def answer(self) -> Answer:
        """Return the answer to the oldest request that has none yet."""
        try:
            answer = json.loads(self._answers.recv_bytes())
        except EOFError:
            raise self._died() from None
        return Answer([Unread(**one) for one in answer["unread"]], answer["busy_s"], answer["error"])

    def _died(self) -> MixdistError:
        code = self._process.wait()
        if code < 0:
            return MixdistError(
                f"a process that decodes images was ended by signal {-code} (out of memory?); lower data.workers, or "
                f"keep fewer images in memory"
            )
        return MixdistError(f"a process that decodes images left with exit code {code}; what it said stands above")

    def dismiss(self) -> None:
        """Let it end after the request that it is at."""
        self._requests.close()
        self._answers.close()

    def end(self, within_s: float) -> None:
        """Kill it if it does not end by itself, as where it waits for a server that is silent."""
        try:
            self._process.wait(max(within_s, 0))
        except subprocess.TimeoutExpired:
            self._process.kill()  # as any kill: what it downloads is continued by the next, and its locks are free
            self._process.wait()


def _close(workers: list[_Worker]) -> None:
    for worker in workers:
        worker.dismiss()
    deadline = time.monotonic() + GRACE_S
    for worker in workers:
        worker.end(deadline - time.monotonic())
