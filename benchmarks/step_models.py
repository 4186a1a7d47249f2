"""What `benchmarks.step` drives: a ViT-Tiny and a model that computes next to nothing, by the engine and by hand."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from mixdist.assembly import build_trainer
from mixdist.config.schema import Config
from mixdist.data.packing.division import PackOptions
from mixdist.data.packing.pack import pack
from mixdist.data.samples import find_samples
from mixdist.engine.loop import Trainer
from mixdist.keyed import make_key, uniform
from mixdist.model.mixmodel import MixModel, build_model
from mixdist.plan import make_plan
from mixdist.runfolder import RunFolder
from mixdist.world import World

ModelName = Literal["null", "vit"]
FOREVER = 100_000  # epochs: a benchmark ends before


class NullBackbone(nn.Module):
    """One multiplication an image."""

    layout = "tokens"
    pooled_dim = 3

    def __init__(self, image_size: int) -> None:
        super().__init__()
        self.image_size = image_size
        self.scale = nn.Parameter(torch.ones(3))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return [B, 3]."""
        return images[:, :, 0, 0] * self.scale

    def pool(self, features: torch.Tensor) -> torch.Tensor:
        """Return them as they are."""
        return features


class NullHead(nn.Module):
    """A colour for each image."""

    noise_width = 16

    def __init__(self) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(3))

    def forward(
        self, features: torch.Tensor, images: torch.Tensor, noise: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return images [B, 3, S, S] of one colour each, and all of their pixels as those that count."""
        rebuilt = (features + self.shift)[:, :, None, None].expand_as(images)
        return rebuilt, (noise[:, :1] >= 0)[:, :, None, None].expand(-1, 1, *images.shape[2:])


@dataclass(frozen=True)
class Case:
    """One model and how it is measured."""

    model: ModelName
    batch: int  #: global
    steps: int  #: of one stretch that is timed
    settings: dict[str, Any]


CASES = {
    "null": Case("null", 8, 60, {}),
    "vit": Case("vit", 16, 4, {"data": {"image_size": 32}, "model": {"patch_size": 4}}),  # 64 tokens, 5.6 M parameters
}


def digits(work: Path) -> Path:
    """Pack scikit-learn's digits, once."""
    out = work / "digits"
    if not out.is_dir():
        pack("digits", out, PackOptions())
    return out


def make_trainer(case: Case, data: Path, run: Path, world: World, mix_ratio: float = 1.0, **parallel: Any) -> Trainer:
    """Build a run whose phases last for ever, as mixdist.train builds it; by default it has MIX alone."""
    settings: dict[str, Any] = {
        "data": {"sl": data, "cache": "ram", **case.settings.get("data", {})},
        "method": {"ssl_epochs": FOREVER, "sl_epochs": FOREVER, "mix_ratio": mix_ratio},
        "model": case.settings.get("model", {}),
        "train": {"batch": case.batch, "precision": "fp32", "log_every": case.steps, "eval_every": FOREVER},
        "run": {"dir": run, "save_every_epochs": FOREVER},
        **({"parallel": parallel} if parallel else {}),
    }
    config = Config.model_validate(settings)
    samples = find_samples(config)
    size, classes = samples.image_size, samples.counts.classes
    null = case.model == "null"
    model = MixModel(NullBackbone(size), NullHead(), classes) if null else build_model(config, size, classes)
    folder = RunFolder(run)
    if world.is_main:
        folder.open("fresh")
    return build_trainer(config, samples, make_plan(config, samples.counts), model, folder, world)


def by_engine(trainer: Trainer) -> Iterator[None]:
    """Train by the engine; yields after every record, that is every ``Case.steps``."""
    for record in trainer.records():
        if not record.step % trainer.config.train.log_every:
            yield


def by_hand(trainer: Trainer) -> Iterator[None]:
    """Train the same model on the same batches by the shortest loop that does the paper's MIX step, under DDP on ranks.

    It has the method's three groups of parameters, each with a learning rate of its own, and nothing that is only there
    for several ranks, other precisions, logging, stopping or numbers that are not finite.
    """
    (phase,) = trainer.plan.phases
    stream, model, steps = trainer.feed.train["mix"], trainer.model, 0
    groups = [{"params": [model.get_parameter(name) for name in names]} for names in trainer.groups.values()]
    adamw = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.95), weight_decay=0.05, fused=True)
    run = DistributedDataParallel(model, gradient_as_bucket_view=True) if trainer.world.size > 1 else model
    for epoch in range(phase.epochs):
        for (batch,) in stream.epoch(epoch, phase.steps_per_epoch):
            for group in adamw.param_groups:
                group["lr"] = 1e-3 * 0.5 * (1 + math.cos(math.pi * steps / phase.steps))
            inputs = stream.prepare(batch)
            drawn = uniform(make_key(0, "mask", batch.epoch), batch.ids, model.reconstructor.noise_width)
            noise = torch.from_numpy(drawn)
            outputs = run(inputs.images, reconstruct=True, classify=True, noise=noise)
            error = ((outputs.reconstruction - inputs.images) ** 2).mean(1, keepdim=True)
            ssl = (error * outputs.where).sum() / outputs.where.sum()
            loss = 0.5 * ssl + 0.5 * F.cross_entropy(outputs.logits, inputs.labels)
            loss.backward()
            adamw.step()
            adamw.zero_grad(set_to_none=True)
            steps += 1
            if not steps % trainer.config.train.log_every:
                loss.item()
                yield
