"""Stream: order + images -> the Batches of one rank, the same number of steps on every rank."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from mixdist.data.approach import Approach, at_hand
from mixdist.data.bad import BadSamples
from mixdist.data.batch import Batch, Preparation
from mixdist.data.copies import Copies
from mixdist.data.images import Asked, Images, Loaded, in_flight
from mixdist.data.mixing import Mixup, draw_shares
from mixdist.data.order import Order, Rows, sample_of, set_of
from mixdist.data.partners import Partners
from mixdist.data.reading.reader import CENTRE
from mixdist.keyed import Ids
from mixdist.world import World

AHEAD = 3  # steps that are decoded in advance; each holds one rank's share of a global batch


@dataclass(frozen=True)
class _Pending:
    """A micro-batch whose images have been asked for."""

    rows: Rows
    own: Asked
    partners: Asked | None
    drawn: Ids | None = None  #: the partners' sample ids

    @property
    def asked(self) -> list[Asked]:
        return [self.own, *([self.partners] if self.partners else [])]


@dataclass(frozen=True)
class Stream:
    """The training batches of one phase on one rank."""

    order: Order
    images: Images
    labels: npt.NDArray[np.int32]  #: of every sample of the split, by id
    prepare: Preparation
    partners: Partners | None
    bad: BadSamples
    copies: Copies
    world: World
    micro_batch: int | None
    describe: Callable[[int], str]  #: names a sample by its id
    approach: Approach = at_hand
    starts: Ids | None = None  #: first id of each labelled set, where several are joined (mixdist/data/joined.py)

    @property
    def busy_s(self) -> tuple[float, ...]:
        """See `Images.busy_s`: of all pools that this stream is fed by."""
        return (*self.images.busy_s, *(self.partners.images.busy_s if self.partners else ()))

    def epoch(self, epoch: int, steps: int, first_step: int = 0) -> Generator[list[Batch], None, None]:
        """Yield this rank's micro-batches for each step of a 0-based epoch, from ``first_step`` on.

        A step's images may lie in memory that is used again: they are valid until the next step is asked for.
        """
        order = self.order.epoch(epoch)
        drawn = self.partners.draw(epoch, order) if self.partners else None
        asked = (
            [
                self._ask(rows, epoch, drawn)
                for rows in self.order.share(order, step, self.world.rank, self.world.size, self.micro_batch)
            ]
            for step in range(first_step, steps)
        )
        ahead = max(self.images.ahead, self.partners.images.ahead if self.partners else 0)
        used: deque[tuple[list[_Pending], _Copied]] = deque()
        with self._approached(order, drawn) as reached, closing(in_flight(asked, ahead, _hand_back)) as flight:
            try:
                for number, step in enumerate(flight, first_step):
                    reached((number + ahead) * self.order.batch)
                    try:
                        batches = [self._batch(pending, epoch) for pending in step]
                    finally:  # where one of them fails, none is waited for
                        used.append((step, _Copied(self.world.device)))
                    if len(used) > 1:  # the step before was trained on, or on a GPU at least copied by now
                        _hand_back_copied(*used.popleft())
                    yield batches
            finally:
                for last in used:
                    _hand_back_copied(*last)

    @contextmanager
    def _approached(self, order: Ids, drawn: Ids | None) -> Iterator[Callable[[int], None]]:
        """Have what an epoch's visits need brought near, and what the partners ``drawn`` for them need."""
        with self.approach(sample_of(order)) as own:
            if self.partners is None or drawn is None:
                yield own
                return
            with self.partners.approach(drawn) as theirs:

                def reached(position: int) -> None:
                    own(position)
                    theirs(position)

                yield reached

    def _ask(self, rows: Rows, epoch: int, drawn: Ids | None) -> _Pending:
        """Ask for the images of ``rows``; ``drawn`` are the partners of all visits of the epoch."""
        own = self.images.ask(sample_of(rows.visits), epoch)
        if self.partners is None or drawn is None:
            return _Pending(rows, own, None)
        partners = drawn[rows.places]
        return _Pending(rows, own, self.partners.images.ask(partners, epoch), partners)

    def _batch(self, pending: _Pending, epoch: int) -> Batch:
        """Wait for the images; a row that cannot be read, itself or its partner, gets weight 0."""
        rows, frames = pending.rows, self.images.frames
        weight = rows.weight / np.float32(frames)  # the frames of one visit to a clip share its weight
        found = [asked.wait() for asked in pending.asked]
        for unread in (loaded.unread for loaded in found if loaded.unread):
            self.bad.note(unread)
            weight[[one.row for one in unread]] = 0
        labels = self.labels[sample_of(rows.visits)].astype(np.int64)
        each = [torch.from_numpy(np.repeat(values, frames)) for values in (labels, weight)]
        labels_there, weight_there, images, *partners = self.copies(*each, *(loaded.images for loaded in found))
        return Batch(
            images=images,
            labels=labels_there,
            weight=weight_there,
            ids=np.repeat(rows.visits, frames),  # one crop and one mask for all frames of a visit
            epoch=epoch,
            partners=self._frames_of(partners[0], frames) if partners else None,
            mixup=self._mixup(pending, epoch),
            sets=self._sets(rows.visits),
            whole=bool(weight.all()),
            counts=(frames * float(weight.sum()), frames * float(weight[labels >= 0].sum())),
        )

    def _mixup(self, pending: _Pending, epoch: int) -> Mixup | None:
        if self.partners is None or self.partners.mixup == 0:
            return None
        assert pending.drawn is not None
        labels = np.repeat(self.labels[pending.drawn].astype(np.int64), self.images.frames)
        share = draw_shares(self.order.seed, epoch, pending.rows.visits, self.partners.mixup)
        share = np.repeat(share, self.images.frames)
        return Mixup(*self.copies(torch.from_numpy(labels), torch.from_numpy(share)))

    def _sets(self, visits: Ids) -> torch.Tensor | None:
        if self.starts is None:
            return None
        return self.copies(torch.from_numpy(set_of(sample_of(visits), self.starts)))[0]

    def _frames_of(self, partners: torch.Tensor, frames: int) -> torch.Tensor:
        """Bring partners to as many frames a visit as the images have: where only one of the two sets has clips."""
        assert self.partners is not None
        theirs = self.partners.images.frames
        if theirs == frames:
            return partners
        return partners[::theirs].repeat_interleave(frames, 0)


class _Copied:
    """The moment at which the copies to the device that were started so far are done."""

    def __init__(self, device: torch.device) -> None:
        self._event = torch.cuda.Event() if device.type == "cuda" else None  # type: ignore[no-untyped-call]
        if self._event:
            self._event.record()

    def wait(self) -> None:
        if self._event:
            self._event.synchronize()


def _hand_back_copied(step: list[_Pending], copied: _Copied) -> None:
    copied.wait()
    _hand_back(step)


def _hand_back(step: list[_Pending]) -> None:
    for pending in step:
        for asked in pending.asked:
            asked.hand_back()


@dataclass(frozen=True)
class TestStream:
    """Labelled samples of a split in order, to look at, cut into batches that do not depend on the number of ranks."""

    ids: Ids
    images: Images
    labels: npt.NDArray[np.int32]
    prepare: Preparation
    bad: BadSamples
    world: World
    batch: int
    head: tuple[int, int] | None = None  #: first logit of its labels, and the one past the last; None: all

    @property
    def most_batches(self) -> int:
        """How many batches the rank with the most of them has; others have one less."""
        return math.ceil(len(self.ids) / (self.batch * self.world.size))

    def __iter__(self) -> Generator[Batch, None, None]:
        """Yield every ``world.size``-th batch, starting at this rank's: each sample on exactly one rank.

        Of a clip, a batch holds all frames of the visit, one after the other, and one label.
        """
        chunks = [self.ids[start : start + self.batch] for start in range(0, len(self.ids), self.batch)]
        asked = ((chunk, self.images.ask(chunk, CENTRE)) for chunk in chunks[self.world.rank :: self.world.size])
        with closing(in_flight(asked, self.images.ahead, lambda item: item[1].hand_back())) as flight:
            for chunk, images in flight:
                try:
                    yield self._batch(chunk, images.wait())
                finally:
                    images.hand_back()

    def _batch(self, chunk: Ids, loaded: Loaded) -> Batch:
        weight = torch.ones(len(chunk))
        self.bad.note(loaded.unread)
        weight[[one.row for one in loaded.unread]] = 0
        device = self.world.device
        labels = torch.from_numpy(self.labels[chunk].astype(np.int64))
        return Batch(loaded.images.to(device), labels.to(device), weight.to(device), ids=chunk, epoch=0)
