"""Runs of seconds for tests: packed 8 px images, a ViT of two blocks, and a Trainer over both."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from packing import run as pack_run
from PIL import Image

from mixdist.assembly import build_trainer
from mixdist.config.schema import Config
from mixdist.data.images import Images
from mixdist.data.reading.reader import CENTRE
from mixdist.data.samples import find_samples
from mixdist.engine.loop import Trainer
from mixdist.engine.update import Updater
from mixdist.keyed import Ids
from mixdist.model.mixmodel import MixModel, build_model
from mixdist.plan import Phase, make_plan
from mixdist.runfolder import RunFolder
from mixdist.world import World

torch.set_num_threads(1)  # tensors this small only lose by threads: ten times the time on a busy machine

ALONE = World.alone(torch.device("cpu"))
TINY_VIT = {
    "model.backbone": "vit_tiny_patch16_224",
    "model.patch_size": 2,
    "model.options": {"depth": 2, "embed_dim": 32, "num_heads": 2},
    "model.decoder_depth": 1,
    "model.decoder_heads": 2,
}
FAMILIES: dict[str, dict[str, Any]] = {  # timm models cut down to what a slow CPU trains at once, for 32 px images
    "vit": {"backbone": "vit_tiny_patch16_224", "patch_size": 8, "options": TINY_VIT["model.options"]},
    "deit": {"backbone": "deit_tiny_distilled_patch16_224", "patch_size": 8, "options": TINY_VIT["model.options"]},
    "swin": {
        "backbone": "swin_tiny_patch4_window7_224",
        "options": {"embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "window_size": 4},
    },
    "convnext": {"backbone": "convnext_atto", "options": {"depths": [1, 1, 1, 1], "dims": [8, 8, 16, 16]}},
    "resnet": {"backbone": "resnet18", "options": {"layers": [1, 1, 1, 1], "channels": [8, 8, 16, 16]}},
    "mobilenetv3": {"backbone": "mobilenetv3_small_050"},
}
HIERA = {"embed_dim": 16, "num_heads": 1, "stages": [1] * 4, "patch_kernel": [3, 3], "patch_stride": [2, 2]}
MORE_FAMILIES: dict[str, dict[str, Any]] = {  # what is only held to train, and to have its places right
    "resnetv2": {
        "backbone": "resnetv2_18",
        "options": {"layers": [1, 1, 1, 1], "channels": [8, 8, 16, 16], "stem_chs": 8},
    },
    "efficientnet": {"backbone": "test_efficientnet"},
    "regnet": {"backbone": "regnetx_002"},
    "hiera": {"backbone": "hiera_tiny_224", "options": {**HIERA, "patch_padding": [1, 1], "q_pool": 2}},
    "xcit": {
        "backbone": "xcit_nano_12_p8_224",
        "options": {"depth": 1, "embed_dim": 32, "num_heads": 2, "cls_attn_layers": 1},
    },
    "cait": {
        "backbone": "cait_xxs24_224",
        "patch_size": 8,
        "options": {"depth": 1, "embed_dim": 32, "num_heads": 2},
    },
    "maxvit": {"backbone": "test_maxvit"},
    "efficientvit": {"backbone": "efficientvit_m0", "options": {"embed_dim": [16, 32, 48], "depth": [1, 1, 1]}},
}
ONE_EPOCH_EACH = {"method.ssl_epochs": 2, "method.sl_epochs": 2, "method.mix_ratio": 0.5}


def tiny_set(out: Path, classes: int = 3, train: int = 11, test: int = 7, size: int = 8) -> Path:
    """Pack noisy images of a colour for each class: ``train`` and ``test`` images in all, each class in turn."""
    generator = np.random.default_rng(0)
    colours = generator.integers(40, 216, (classes, 3))
    for split, count in (("train", train), ("test", test)):
        for row in range(count):
            path = out.with_name(f"{out.name}-source") / split / f"class-{row % classes}" / f"{row:04d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            noisy = colours[row % classes] + generator.normal(0, 20, (size, size, 3))
            Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(path)
    pack_run(out.with_name(f"{out.name}-source"), out)
    return out


def tiny_config(data: Path, run: Path, changes: dict[str, Any] | None = None) -> Config:
    """Return the config of a tiny run: 11 images in steps of 8 and 3, one epoch a phase; dotted keys change it."""
    tree: dict[str, Any] = {}
    own = {"data.sl": data, "run.dir": run, "train.batch": 8, "train.log_every": 1, "train.precision": "fp32"}
    for key, value in (TINY_VIT | ONE_EPOCH_EACH | own | (changes or {})).items():
        *sections, name = key.split(".")
        inner = tree
        for section in sections:
            inner = inner.setdefault(section, {})
        inner[name] = value
    return Config.model_validate(tree)


def family_config(family: str, data: Path = Path("set"), run: Path = Path("run"), **options: Any) -> Config:
    """Return the config of a tiny run with a timm model of a family, and ``options`` added to its own."""
    model = {"decoder_depth": 1, "decoder_heads": 2, **(FAMILIES | MORE_FAMILIES)[family]}
    model["options"] = {**model.get("options", {}), **options}
    base = {key: value for key, value in tiny_config(data, run).model_dump().items() if key != "model"}
    return Config.model_validate({**base, "model": model})


def family_model(family: str, size: int = 32, **options: Any) -> MixModel:
    """Build the tiny model of a family, of three classes."""
    return build_model(family_config(family, **options), size, 3)


def make_trainer(config: Config) -> Trainer:
    """Build a run alone on the CPU, as mixdist.train does."""
    samples = find_samples(config)
    plan = make_plan(config, samples.counts)
    model = build_model(config, samples.image_size, samples.counts.classes)
    folder = RunFolder(config.run.dir)
    folder.open(config.run.resume)
    return build_trainer(config, samples, plan, model, folder, ALONE)


def phase_of(trainer: Trainer, name: str) -> Phase:
    """Return a phase of the plan by name."""
    return next(phase for phase in trainer.plan.phases if phase.name == name)


def make_updater(trainer: Trainer, name: str) -> Updater:
    """Drive one phase from outside of the loop."""
    return trainer.updater(phase_of(trainer, name))


def weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    """Return a copy of all parameters and buffers."""
    return {name: value.clone() for name, value in trainer.model.state_dict().items()}


def seen(images: Images, ids: Ids) -> torch.Tensor:
    """Return the images of samples as evaluation sees them: uint8 [len(ids), S, S, 3]."""
    return images.ask(ids, CENTRE).wait().images
