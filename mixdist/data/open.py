"""From the config and the samples to what a run is fed with: a stream for each phase, and one to test on."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch

from mixdist.config.schema import Config
from mixdist.data.bad import BadSamples
from mixdist.data.cache import most_device_bytes
from mixdist.data.opener import Opener
from mixdist.data.samples import Samples
from mixdist.data.stream import Partners, Stream, TestStream
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
    config: Config, samples: Samples, world: World, quarantine: Path | None = None, fitted: int | None = None
) -> Feed:
    """Open the streams that the arm needs; decodes the sets that are kept resident.

    Args:
        config: of the run.
        samples: see `find_samples`.
        world: this rank's place.
        quarantine: see `BadSamples`.
        fitted: the micro-batch that "auto" came to; without it, "auto" is a rank's whole share.

    Raises:
        DataError: a shard that cannot be read, or no test split for a supervised arm.
    """
    epochs = epochs_of(config.method)
    of_all = bool(epochs["mix"]) and config.method.mix_samples == "all"
    mixes = bool(epochs["mix"]) and not (samples.same or of_all) and config.method.input_ratio < 1
    micro_batch = fitted if config.train.micro_batch == "auto" else config.train.micro_batch
    opener = Opener(config, samples, world, micro_batch, mixes, _bad_samples(config, samples, quarantine), [])
    train: dict[PhaseName, Stream] = {}
    ssl_images = opener.images(samples.ssl, "train", samples.ssl_ids) if epochs["ssl"] or mixes or of_all else None
    if epochs["ssl"] and ssl_images:
        train["ssl"] = opener.stream("ssl", samples.ssl, samples.ssl_ids, ssl_images)
    # Of one set, the labelled samples are there already, unless SSL sees only the others.
    shared = ssl_images if samples.ssl is samples.sl and not config.data.ssl_only_unlabelled else None
    probes = config.train.probe_every is not None and bool(epochs["ssl"] or epochs["mix"])
    if not (epochs["mix"] or epochs["sl"]):
        probe = opener.probe_streams(shared, None) if probes else None
        return Feed(train, None, opener.bad, tuple(opener.notes), probe)
    sl_images = shared or opener.images(samples.sl, "train", samples.sl_ids)
    partners = Partners(ssl_images, samples.ssl_ids) if mixes and ssl_images else None
    beside = [opener.images(task.packed, "train", task.ids) for task in samples.tasks]
    if epochs["mix"]:
        train["mix"] = opener.mixed(sl_images) if of_all else opener.supervised(sl_images, beside, partners)
    if epochs["sl"]:
        mixup = config.train.mixup
        others = Partners(sl_images, samples.sl_ids, mixup) if mixup else None
        train["sl"] = opener.supervised(sl_images, beside, others)
    test = opener.test_stream()
    probe = opener.probe_streams(sl_images, test) if probes else None
    tasks = opener.test_streams()
    return Feed(train, test, opener.bad, tuple(opener.notes), probe, tasks)


def resident_bytes(config: Config, samples: Samples, device: torch.device) -> int:
    """Return how much memory of the device the sets that `open_feed` opens will be kept in, at most."""
    epochs = epochs_of(config.method)
    sets = [len(samples.ssl_ids), *([] if samples.ssl is samples.sl else [len(samples.sl_ids)])]
    if epochs["mix"] or epochs["sl"]:
        tested = (samples.sl, *(task.packed for task in samples.tasks))
        sets += [int((packed.split("test").labels >= 0).sum()) for packed in tested]
        sets += [len(task.ids) for task in samples.tasks]
    return most_device_bytes(sets, samples.image_size, config.data.cache, device)


def _bad_samples(config: Config, samples: Samples, quarantine: Path | None) -> BadSamples:
    trained = len(samples.ssl_ids) + (0 if samples.ssl is samples.sl else len(samples.sl_ids))
    trained += sum(len(task.ids) for task in samples.tasks)
    return BadSamples(config.data.bad_samples, config.data.bad_limit, trained, quarantine)
