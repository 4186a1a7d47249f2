"""Stream: order + images -> the Batches of one rank, the same number of steps on every rank."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from mixdist.data.batch import Batch, Preparation
from mixdist.data.images import Images
from mixdist.data.mixing import draw_partners
from mixdist.data.order import Order, Rows
from mixdist.keyed import Ids
from mixdist.world import World

AHEAD = 3  # steps that are decoded in advance; each holds one rank's share of a global batch


@dataclass(frozen=True)
class Partners:
    """D_ssl as the mix phase draws from it (Eq. 2)."""

    images: Images
    ids: Ids


@dataclass(frozen=True)
class Stream:
    """The training batches of one phase on one rank."""

    order: Order
    images: Images
    labels: npt.NDArray[np.int32]  #: of every sample of the split, by id
    prepare: Preparation
    partners: Partners | None
    world: World
    micro_batch: int | None

    def epoch(self, epoch: int, steps: int, first_step: int = 0) -> Iterator[list[Batch]]:
        """Yield this rank's micro-batches for each step of a 0-based epoch, from ``first_step`` on."""
        order = self.order.epoch(epoch)
        produced = (
            [
                self._batch(rows, epoch)
                for rows in self.order.share(order, step, self.world.rank, self.world.size, self.micro_batch)
            ]
            for step in range(first_step, steps)
        )
        resident = self.images.resident and (self.partners is None or self.partners.images.resident)
        return produced if resident else _ahead(produced)

    def _batch(self, rows: Rows, epoch: int) -> Batch:
        partners = None
        if self.partners:
            drawn = draw_partners(self.order.seed, epoch, rows.ids, self.partners.ids)
            partners = self._to_device(self.partners.images(drawn))
        return Batch(
            images=self._to_device(self.images(rows.ids)),
            labels=self._to_device(torch.from_numpy(self.labels[rows.ids].astype(np.int64))),
            weight=self._to_device(torch.from_numpy(rows.weight)),
            ids=rows.ids,
            epoch=epoch,
            partners=partners,
        )

    def _to_device(self, tensor: torch.Tensor) -> torch.Tensor:
        if self.world.device.type == "cuda" and tensor.device.type == "cpu":
            tensor = tensor.pin_memory()
        return tensor.to(self.world.device, non_blocking=True)


@dataclass(frozen=True)
class TestStream:
    """The labelled test samples in order, cut into batches that do not depend on the number of ranks."""

    ids: Ids
    images: Images
    labels: npt.NDArray[np.int32]
    prepare: Preparation
    world: World
    batch: int

    def __iter__(self) -> Iterator[Batch]:
        """Yield every ``world.size``-th batch, starting at this rank's: each sample on exactly one rank."""
        chunks = [self.ids[start : start + self.batch] for start in range(0, len(self.ids), self.batch)]
        for chunk in chunks[self.world.rank :: self.world.size]:
            yield Batch(
                images=self.images(chunk).to(self.world.device),
                labels=torch.from_numpy(self.labels[chunk].astype(np.int64)).to(self.world.device),
                weight=torch.ones(len(chunk), device=self.world.device),
                ids=chunk,
                epoch=0,
            )


def _ahead(steps: Iterator[list[Batch]]) -> Iterator[list[Batch]]:
    """Produce steps in a thread, at most ``AHEAD`` in advance; an error there is raised here."""
    slots: queue.Queue[list[Batch] | Exception | None] = queue.Queue(AHEAD)
    stopped = threading.Event()

    def put(item: list[Batch] | Exception | None) -> bool:
        while not stopped.is_set():
            with suppress(queue.Full):
                slots.put(item, timeout=0.1)
                return True
        return False

    def produce() -> None:
        try:
            for step in steps:
                if not put(step):
                    return
            put(None)
        except Exception as error:  # handed to the consumer, which raises it
            put(error)

    thread = threading.Thread(target=produce, name="mixdist-ahead", daemon=True)
    thread.start()
    try:
        while (item := slots.get()) is not None:
            if isinstance(item, Exception):
                raise item
            yield item
    finally:
        stopped.set()
        thread.join()
