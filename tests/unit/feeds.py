"""Streams over small packed sets (the fixture `sets`), and what they yield."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import torch

from mixdist.config.schema import Config
from mixdist.data.batch import Batch
from mixdist.data.decode import decode
from mixdist.data.open import Feed, open_feed
from mixdist.data.open_set import open_set
from mixdist.data.samples import find_samples
from mixdist.plan import make_plan
from mixdist.world import World

CPU = torch.device("cpu")
ALONE = World.alone(CPU)
UNEVEN = {"ash": 21, "birch": 12, "cedar": 4}  # training images of each class


def config(sl: Path, **settings: object) -> Config:
    """Return a config of batch 8; settings by dotted key, "__" for the dot."""
    tree: dict = {"data": {"sl": sl}, "method": {"ssl_epochs": 2, "sl_epochs": 2}, "train": {"batch": 8}}
    for key, value in settings.items():
        section, name = key.split("__")
        tree.setdefault(section, {})[name] = value
    return Config.model_validate(tree)


def feed_of(settings: Config, world: World = ALONE) -> Feed:
    return open_feed(settings, find_samples(settings), world)


def rank_of(rank: int, size: int) -> World:
    return World(rank=rank, local_rank=rank, size=size, local_size=size, device=CPU)


def batches(feed: Feed, settings: Config, phase: str, epoch: int = 0, first_step: int = 0) -> list:
    """Return the micro-batches of one epoch, all steps after one another."""
    plan = make_plan(settings, find_samples(settings).counts)
    steps = next(found.steps_per_epoch for found in plan.phases if found.name == phase)
    return [kept(batch) for step in feed.train[phase].epoch(epoch, steps, first_step) for batch in step]


def kept(batch: Batch) -> Batch:
    """Return a batch that stays as it is when the next step arrives."""
    partners = None if batch.partners is None else batch.partners.clone()
    return dataclasses.replace(batch, images=batch.images.clone(), partners=partners)


def stored(folder: Path, split: str, sample: int) -> np.ndarray:
    """Return the image of a sample, read from its shard by the index alone."""
    found = open_set(folder).split(split)
    row = found.index[sample]
    content = (folder / found.shards[row["shard"]].name).read_bytes()[row["offset"] :][: row["size"]]
    return decode(content)
