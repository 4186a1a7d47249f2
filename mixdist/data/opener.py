"""The streams of a run, each opened with what all of them share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from mixdist.config.schema import Config
from mixdist.data.approach import Approach, at_hand
from mixdist.data.augment import Augmentation
from mixdist.data.bad import BadSamples
from mixdist.data.batch import Preparation, Statistics
from mixdist.data.cache import Access, make_images
from mixdist.data.copies import Copies
from mixdist.data.images import Images, ResidentImages
from mixdist.data.index import UNLABELLED, PackedSet, Split
from mixdist.data.joined import join
from mixdist.data.order import MIN_ROWS, Order
from mixdist.data.partners import Partners
from mixdist.data.remote.ahead import shards_ahead
from mixdist.data.samples import Samples
from mixdist.data.select import PROBED, at_most, noisy_labels
from mixdist.data.stream import AHEAD, Stream, TestStream
from mixdist.data.tars import DrawnImages, Tars
from mixdist.errors import DataError, UserError
from mixdist.keyed import Ids
from mixdist.world import World

SHOWN = 8  # images of a picture of reconstructions, which are asked for at once whatever a batch is


@dataclass(frozen=True)
class Opener:
    """What every stream of a run is opened with."""

    config: Config
    samples: Samples
    world: World
    micro_batch: int | None  #: most rows of one forward on one rank
    mixes: bool
    bad: BadSamples
    notes: list[str]
    alive: Callable[[], None]  #: see `Access`

    def images(self, packed: PackedSet | Tars, split: str, ids: Ids, training: bool = True) -> Images:
        """Return the images of a split, kept where the config says; notes where that is."""
        if isinstance(packed, Tars):
            self.notes.append(
                f"{packed.location}: no index, so {len(ids):,} images an epoch are drawn with replacement, and neither "
                f"an exact epoch nor a resume on another number of ranks is to be had (mixdist index makes one)"
            )
            size, seed = self.samples.image_size, self.config.seed
            return DrawnImages(packed, size, seed, AHEAD, self.bad, self.world)
        images, place = make_images(packed, split, ids, self._access(training))
        if isinstance(images, ResidentImages):
            self.bad.note(images.unread)
        where = {
            "none": "decoded at each visit",
            "ram": "kept in RAM",
            "disk": f"decoded in {self.config.data.cache_dir}",
            "device": f"kept on {self.world.device}",
        }[place]
        self.notes.append(f"{packed.folder.name}/{split}: {len(ids):,} images of {self.samples.image_size} px, {where}")
        return images

    def _access(self, training: bool) -> Access:
        data, train = self.config.data, self.config.train
        share = -(-train.batch // self.world.size)  # of one rank at a step
        micro = min(self.micro_batch or share, share)
        return Access(
            size=self.samples.image_size,
            frames=data.clip_frames,
            seed=self.config.seed,
            cache=data.cache,
            folder=data.cache_dir.expanduser(),
            limit_bytes=data.cache_limit_bytes,
            workers=data.workers,
            batch=max(micro, MIN_ROWS, SHOWN) if training else max(train.eval_batch, SHOWN),
            asks=-(-share // micro) * (2 if self.mixes or train.mixup else 1) if training else 1,
            ahead=AHEAD,
            world=self.world,
            alive=self.alive,
        )

    def preparation(
        self, own: PackedSet | Tars, augmentation: Augmentation, partner: PackedSet | Tars | None = None
    ) -> Preparation:
        """Return what makes inputs of a set's batches; ``partner`` is the set of x_ssl of Eq. 2, by default D_ssl."""
        device, partner = self.world.device, partner or self.samples.ssl
        return Preparation(
            seed=self.config.seed,
            augmentation=augmentation,
            own=Statistics.of(own.mean, own.std, device),
            partner=Statistics.of(partner.mean, partner.std, device),
            input_ratio=self.config.input_ratio,
        )

    def stream(
        self, purpose: str, packed: PackedSet | Tars, ids: Ids, images: Images, partners: Partners | None = None
    ) -> Stream:
        """Return a set's training stream; ``purpose`` keys its order."""
        config = self.config
        stream = Stream(
            order=Order(ids, config.train.batch, config.seed, purpose),
            images=images,
            labels=np.full(len(ids), UNLABELLED, np.int32),
            prepare=self.preparation(packed, config.data.augment, packed if partners and partners.mixup else None),
            partners=partners,
            bad=self.bad,
            copies=Copies(self.world.device),
            world=self.world,
            micro_batch=self.micro_batch,
            describe=lambda draw: f"draw {draw} from {packed.location}",
        )
        if isinstance(packed, Tars):
            return stream
        split = packed.split("train")
        labels = noisy_labels(split.labels, len(packed.classes), config.data)
        order = self._ordered(stream.order, split, labels if config.data.balanced and purpose != "ssl" else None)
        return replace(stream, labels=labels, order=order, describe=split.describe, approach=self._approach(split))

    def mixed(self, images: Images) -> Stream:
        """Return the stream of MIX over all samples of one set, of which those of D_sl have a label."""
        stream = self.stream("mix", self.samples.sl, self.samples.ssl_ids, images)
        labels = np.full_like(stream.labels, UNLABELLED)
        labels[self.samples.sl_ids] = stream.labels[self.samples.sl_ids]
        return replace(stream, labels=labels)

    def supervised(self, images: Images, beside: list[Images], partners: Partners | None) -> Stream:
        """Return the stream of MIX or SL: over D_sl, joined with the sets beside it where there are any."""
        samples = self.samples
        first = self.stream("sl", samples.sl, samples.sl_ids, images, partners)
        if not samples.tasks:
            return first
        streams = [
            self.stream(f"sl/{task.name}", task.packed, task.ids, own)
            for task, own in zip(samples.tasks, beside, strict=True)
        ]
        visits = (len(samples.sl_ids), *(task.visits for task in samples.tasks))
        return join(
            (first, *streams), visits, [len(samples.sl.classes), *(len(t.packed.classes) for t in samples.tasks)]
        )

    def partners(self, packed: PackedSet | Tars, ids: Ids, images: Images, mixup: float = 0.0) -> Partners:
        """Return what `supervised` streams mix with: the images ``ids`` of a set; ``mixup`` as in `Partners`."""
        order = Order(ids, self.config.train.batch, self.config.seed, "sl")
        if isinstance(packed, Tars):
            return Partners(images, order)
        split = packed.split("train")
        return Partners(images, self._ordered(order, split, None), mixup, self._approach(split))

    def _ordered(self, order: Order, split: Split, labels: npt.NDArray[np.int32] | None) -> Order:
        """Add to an order what it needs to shuffle shards and to balance classes, where that is asked for."""
        data = self.config.data
        by_shard = data.shuffle == "shards" or (data.shuffle == "auto" and split.remote)
        shards = split.index["shard"][order.ids].astype(np.int64) if by_shard else None
        classes = None if labels is None else labels[order.ids].astype(np.int64)
        return replace(order, shards=shards, at_once=data.shards_at_once, classes=classes)

    def _approach(self, split: Split) -> Approach:
        """Let the first process of a node fetch the shards of a remote set before they are reached."""
        if not split.remote or self.world.local_rank:
            return at_hand
        return lambda order: shards_ahead(split, split.index["shard"][order], self.config.data.shards_at_once)

    def test_stream(self) -> TestStream:
        """Return D_sl's labelled test samples.

        Raises:
            DataError: there is none.
        """
        packed = self.samples.sl
        labels = packed.split("test").labels
        ids = np.flatnonzero(labels >= 0)
        if len(ids) == 0:
            raise DataError(f"the test split of {packed.location} has no labelled sample to evaluate on")
        images = self.images(packed, "test", ids, training=False)
        return replace(self._in_order(packed, ids, images, labels), head=(0, len(packed.classes)))

    def test_streams(self) -> dict[str, TestStream]:
        """Return the test streams of the labelled sets beside D_sl, by name; each reads the logits of its own head."""
        found, start = {}, len(self.samples.sl.classes)
        for task in self.samples.tasks:
            labels, end = task.packed.split("test").labels, start + len(task.packed.classes)
            ids = np.flatnonzero(labels >= 0)
            images = self.images(task.packed, "test", ids, training=False)
            found[task.name] = replace(self._in_order(task.packed, ids, images, labels), head=(start, end))
            start = end
        return found

    def probe_streams(self, at_hand: Images | None, test: TestStream | None) -> tuple[TestStream, TestStream]:
        """Return streams over at most `PROBED` labelled images each, to train and to test on frozen features.

        Args:
            at_hand: the training images, where they are open already; taken where they are resident.
            test: of the run, where it has one.

        Raises:
            UserError: no training image has a label.
        """
        packed, ids = self.samples.sl, at_most(PROBED, self.samples.sl_ids)
        if len(ids) == 0:
            raise UserError(
                f"train.probe_every judges features by labels, and data.sl ({packed.location}) has no labelled "
                f"training image; give a labelled set as data.sl, or leave it off"
            )
        resident = isinstance(at_hand, ResidentImages)
        images = at_hand if at_hand and resident else self.images(packed, "train", ids, training=False)
        labels = noisy_labels(packed.split("train").labels, len(packed.classes), self.config.data)
        test = test or self.test_stream()
        return self._in_order(packed, ids, images, labels), replace(test, ids=at_most(PROBED, test.ids))

    def _in_order(self, packed: PackedSet, ids: Ids, images: Images, labels: npt.NDArray[np.int32]) -> TestStream:
        prepare = self.preparation(packed, "none")
        return TestStream(ids, images, labels, prepare, self.bad, self.world, self.config.train.eval_batch)
