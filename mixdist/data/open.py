"""From the config and the samples to what a run is fed with: a stream for each phase, and one to test on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from mixdist.config.schema import Config
from mixdist.data.bad import BadSamples
from mixdist.data.cache import most_device_bytes
from mixdist.data.opener import Opener
from mixdist.data.samples import Samples
from mixdist.data.select import PROBED
from mixdist.data.stream import Stream, TestStream
from mixdist.plan import PhaseName, epochs_of
from mixdist.world import World


@dataclass(frozen=True)
class Feed:
    """The open streams of a run on one rank."""

    train: dict[PhaseName, Stream]  #: one for each phase that has epochs
    test: TestStream | None  #: None for a run without a supervised epoch
    bad: BadSamples
    notes: tuple[str, ...]  #: for the user: where the decoded sets are kept
    probe: tuple[TestStream, TestStream] | None = None  #: labelled images to train and to test on frozen features
    tasks: dict[str, TestStream] = field(default_factory=dict)  #: of the labelled sets beside D_sl, by name


def open_feed(
    config: Config,
    samples: Samples,
    world: World,
    quarantine: Path | None = None,
    fitted: int | None = None,
    alive: Callable[[], None] = lambda: None,
) -> Feed:
    """Open the streams that the arm needs; decodes the sets that are kept resident.

    Args:
        config: of the run.
        samples: see `find_samples`.
        world: this rank's place.
        quarantine: see `BadSamples`.
        fitted: the micro-batch that "auto" came to; without it, "auto" is a rank's whole share.
        alive: called all along while a set is decoded, for a watchdog.

    Raises:
        DataError: a shard that cannot be read, or no test split for a supervised arm.
    """
    epochs, needs = epochs_of(config.method), _Needs.of(config, samples)
    micro_batch = fitted if config.train.micro_batch == "auto" else config.train.micro_batch
    bad = BadSamples(config.data.bad_samples, config.data.bad_limit, sum(needs.training(samples)), quarantine)
    opener = Opener(config, samples, world, micro_batch, needs.mixes, bad, [], alive)
    train: dict[PhaseName, Stream] = {}
    ssl_images = opener.images(samples.ssl, "train", samples.ssl_ids) if needs.ssl else None
    if epochs["ssl"] and ssl_images:
        train["ssl"] = opener.stream("ssl", samples.ssl, samples.ssl_ids, ssl_images)
    shared = ssl_images if needs.one else None
    probes = config.train.probe_every is not None and bool(epochs["ssl"] or epochs["mix"])
    if not needs.supervised:
        probe = opener.probe_streams(shared, None) if probes else None
        return Feed(train, None, opener.bad, tuple(opener.notes), probe)
    sl_images = shared or opener.images(samples.sl, "train", samples.sl_ids)
    partners = opener.partners(samples.ssl, samples.ssl_ids, ssl_images) if needs.mixes and ssl_images else None
    beside = [opener.images(task.packed, "train", task.ids) for task in samples.tasks]
    if epochs["mix"]:
        train["mix"] = opener.mixed(sl_images) if needs.of_all else opener.supervised(sl_images, beside, partners)
    if epochs["sl"]:
        mixup = config.train.mixup
        others = opener.partners(samples.sl, samples.sl_ids, sl_images, mixup) if mixup else None
        train["sl"] = opener.supervised(sl_images, beside, others)
    test = opener.test_stream()
    probe = opener.probe_streams(sl_images, test) if probes else None
    tasks = opener.test_streams()
    return Feed(train, test, opener.bad, tuple(opener.notes), probe, tasks)


def resident_bytes(config: Config, samples: Samples, device: torch.device) -> int:
    """Return how much memory of the device the sets that `open_feed` opens will be kept in, at most."""
    needs = _Needs.of(config, samples)
    sets = needs.training(samples)
    if needs.supervised or config.train.probe_every:
        tested = (samples.sl, *(task.packed for task in samples.tasks if needs.supervised))
        sets += [int((packed.split("test").labels >= 0).sum()) for packed in tested]
    if config.train.probe_every and not (needs.sl or (needs.ssl and needs.one)):
        sets.append(min(PROBED, len(samples.sl_ids)))
    return most_device_bytes(sets, samples.image_size, config.data.cache, device)


@dataclass(frozen=True)
class _Needs:
    """Which training images a run opens."""

    ssl: bool  #: those of D_ssl
    sl: bool  #: those of D_sl, apart from D_ssl's
    one: bool  #: D_sl's are among D_ssl's: of one set they are there already, unless SSL sees only the others
    supervised: bool  #: MIX or SL
    mixes: bool  #: by Eq. 2, with partners from D_ssl
    of_all: bool  #: MIX sees all of D_ssl

    @staticmethod
    def of(config: Config, samples: Samples) -> _Needs:
        epochs = epochs_of(config.method)
        of_all = bool(epochs["mix"]) and config.method.mix_samples == "all"
        mixes = bool(epochs["mix"]) and not of_all and config.input_ratio < 1
        ssl, supervised = bool(epochs["ssl"]) or mixes or of_all, bool(epochs["mix"] or epochs["sl"])
        one = samples.ssl is samples.sl and not config.data.ssl_only_unlabelled
        return _Needs(ssl, supervised and not (ssl and one), one, supervised, mixes, of_all)

    def training(self, samples: Samples) -> list[int]:
        """Return the numbers of images, set by set."""
        own = [len(samples.ssl_ids)] * self.ssl + [len(samples.sl_ids)] * self.sl
        return own + [len(task.ids) for task in samples.tasks] * self.supervised
