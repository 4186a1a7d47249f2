"""Several labelled sets as one stream: their samples numbered one set after the other, visited in turn by rate.

The first set is `data.sl`, whose samples, visits and classes keep their numbers. All that is decided here follows
(seed, epoch, sample), so a step holds the same images on any number of ranks, as it does with one set.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch

from mixdist.data.batch import Statistics
from mixdist.data.copies import to_device
from mixdist.data.images import Asked, Images, Loaded
from mixdist.data.order import SPAN, Order, sample_of, set_of
from mixdist.data.stream import Stream
from mixdist.errors import UserError
from mixdist.keyed import Ids


@dataclass(frozen=True)
class JoinedOrder(Order):
    """The order of several sets' samples; ``ids`` are joined ones."""

    parts: tuple[Order, ...] = ()  #: of each set, by its own ids
    starts: tuple[int, ...] = ()  #: first joined id of each set
    visits: tuple[int, ...] = ()  #: of each set in an epoch; of the first, one to each sample

    def epoch(self, epoch: int) -> Ids:
        """Return the visits of 0-based ``epoch``, each set spread evenly over it.

        The first set is visited as it is alone. Another goes on where it ended in the epoch before, pass after pass, so
        its samples are visited equally often over a run, whatever its rate. Of any stretch of the epoch, each set
        has its share to less than one visit a set.
        """
        found = [self.parts[0].epoch(epoch)]
        found += [
            _numbered(_taken(part, epoch * count, count))
            for part, count in zip(self.parts[1:], self.visits[1:], strict=True)
        ]
        places = np.concatenate([(np.arange(len(own)) + 0.5) / len(own) for own in found])
        joined = np.concatenate([own + start for own, start in zip(found, self.starts, strict=True)])
        return joined[np.argsort(places, kind="stable")]


def _taken(part: Order, begin: int, count: int) -> Ids:
    """Return the samples at ``count`` positions from ``begin`` on of a set's passes, one after the other."""
    size = len(part.ids)
    first, last = begin // size, (begin + count - 1) // size
    passes = np.concatenate([sample_of(part.epoch(number)) for number in range(first, last + 1)])
    return passes[begin - first * size :][:count]


def _numbered(samples: Ids) -> Ids:
    """Return visits: the second time that a sample occurs is another visit, with another crop."""
    order = np.argsort(samples, kind="stable")
    _, starts, counts = np.unique(samples[order], return_index=True, return_counts=True)
    turns = np.empty_like(samples)
    turns[order] = np.arange(len(samples)) - np.repeat(starts, counts)
    return samples + turns * SPAN


class JoinedImages:
    """Images of several sets by joined id."""

    frames = 1

    def __init__(self, parts: Sequence[Images], starts: Ids) -> None:
        self._parts, self._starts = parts, starts
        self.ahead = max(part.ahead for part in parts)

    @property
    def busy_s(self) -> tuple[float, ...]:
        """See `Images`."""
        return tuple(seconds for part in self._parts for seconds in part.busy_s)

    def ask(self, ids: Ids, epoch: int) -> Asked:
        """See `Images`."""
        number = set_of(ids, self._starts)
        rows = {each: np.flatnonzero(number == each) for each in np.unique(number).tolist()}
        asked = [self._parts[each].ask(ids[own] - self._starts[each], epoch) for each, own in rows.items()]

        def wait() -> Loaded:
            return _put_together(len(ids), list(rows.values()), [one.wait() for one in asked])

        def hand_back() -> None:
            for one in asked:
                one.hand_back()

        return Asked(wait, hand_back)


def _put_together(count: int, rows: list[Ids], loaded: list[Loaded]) -> Loaded:
    device = next((one.images.device for one in loaded if one.images.device.type != "cpu"), loaded[0].images.device)
    images = torch.empty((count, *loaded[0].images.shape[1:]), dtype=torch.uint8, device=device)
    for own, one in zip(rows, loaded, strict=True):
        images[to_device(torch.from_numpy(own), device)] = to_device(one.images, device)
    unread = [
        replace(each, row=int(own[each.row])) for own, one in zip(rows, loaded, strict=True) for each in one.unread
    ]
    return Loaded(images, unread)


def join(streams: Sequence[Stream], visits: Sequence[int], classes: Sequence[int]) -> Stream:
    """Return one stream over several sets, the first of which gives all settings.

    Args:
        streams: of each set.
        visits: of each set in an epoch.
        classes: of each set; a joined label counts on from those of the sets before.

    Raises:
        UserError: one of them has video clips.
    """
    first = streams[0]
    if any(stream.images.frames != 1 for stream in streams):
        raise UserError("data.tasks: sets of video clips cannot be joined; use sets of images, or data.clip_frames 1")
    starts = np.cumsum([0, *(len(stream.labels) for stream in streams[:-1])])
    labels = [
        np.where(stream.labels >= 0, stream.labels + start, -1).astype(np.int32)
        for stream, start in zip(streams, np.cumsum([0, *classes[:-1]]), strict=True)
    ]
    own = [stream.prepare.own for stream in streams]
    statistics = Statistics(torch.stack([one.mean for one in own]), torch.stack([one.std for one in own]))
    heads = torch.arange(len(classes)).repeat_interleave(torch.tensor(classes)).to(statistics.mean.device)
    orders = tuple(stream.order for stream in streams)
    ids = np.concatenate([order.ids + start for order, start in zip(orders, starts, strict=True)])

    def describe(one: int) -> str:
        number = int(set_of(np.array([one]), starts)[0])
        return streams[number].describe(one - int(starts[number]))

    order = JoinedOrder(
        ids,
        first.order.batch,
        first.order.seed,
        "sl",
        parts=orders,
        starts=tuple(starts.tolist()),
        visits=tuple(visits),
    )
    return replace(
        first,
        order=order,
        images=JoinedImages([stream.images for stream in streams], starts),
        labels=np.concatenate(labels),
        prepare=replace(first.prepare, sets=statistics, heads=heads),
        describe=describe,
        approach=lambda visited: _approached(streams, visited, starts),
        starts=starts,
    )


@contextmanager
def _approached(streams: Sequence[Stream], order: Ids, starts: Ids) -> Iterator[Callable[[int], None]]:
    """Let each set bring near what its own part of an epoch needs."""
    number = set_of(order, starts)
    with ExitStack() as held:
        told = []
        for each, stream in enumerate(streams):
            places = np.flatnonzero(number == each)
            told.append((places, held.enter_context(stream.approach(order[places] - starts[each]))))

        def reached(position: int) -> None:
            for places, tell in told:
                tell(int(np.searchsorted(places, position)))

        yield reached
