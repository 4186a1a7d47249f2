"""Run folders as a training leaves them, for tests of the report: numbers are made up, formats are real."""

from __future__ import annotations

import json
import math
import random
import struct
import zlib
from pathlib import Path
from typing import Any

import yaml

from mixdist.engine.record import StepRecord

PHASES = {"sl": {"sl": 8}, "ssl+sl": {"ssl": 8, "sl": 8}, "mixtraining": {"ssl": 4, "mix": 4, "sl": 4}}
SECONDS_AN_EPOCH = {"ssl": 3.0, "mix": 3.5, "sl": 2.5}
STEPS_AN_EPOCH = 10
BATCH = 64


def write_run(
    folder: Path,
    arm: str = "mixtraining",
    seed: int = 0,
    accuracy: float = 70.0,
    slowness: float = 1.0,
    device: str = "cpu",
    world_size: int = 1,
    config: dict[str, Any] | None = None,
    result: dict[str, Any] | None = None,
    picture: bool = False,
    pictures: int = 0,
    confusion: list[list[int]] | None = None,
) -> Path:
    """Write a finished run; ``config`` holds dotted keys, ``result`` fields of result.json that differ."""
    folder.mkdir(parents=True)
    records = make_records(arm, seed, accuracy, slowness, world_size)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record.as_dict()) + "\n" for record in records))
    (folder / "config.yaml").write_text(yaml.safe_dump(_config(folder, arm, seed, config or {}), sort_keys=False))
    (folder / "result.json").write_text(
        json.dumps({**_result(arm, seed, accuracy, records[-1], device, world_size), **(result or {})})
    )
    if picture:
        (folder / "reconstruction.png").write_bytes(png())
    for epoch in range(1, pictures + 1):
        (folder / "reconstructions").mkdir(exist_ok=True)
        (folder / "reconstructions" / f"epoch-{epoch:04d}.png").write_bytes(png())
    if confusion:
        names = [f"class {number}" for number in range(len(confusion))]
        (folder / "confusion.json").write_text(json.dumps({"classes": names, "counts": confusion}))
    return folder


def three_arms(parent: Path, seeds: int = 2, **options: Any) -> Path:
    """Write ``seeds`` runs of each arm below ``parent``: sl about 60 %, ssl+sl about 69 %, mixtraining about 71 %."""
    for arm, base in {"sl": 60.0, "ssl+sl": 69.0, "mixtraining": 71.0}.items():
        for seed in range(seeds):
            write_run(parent / f"{arm}-{seed}", arm, seed, base + 0.8 * seed, picture=arm != "sl", **options)
    return parent


def make_records(arm: str, seed: int, accuracy: float, slowness: float = 1.0, world_size: int = 1) -> list[StepRecord]:
    """Return a record each second step; epochs of MIX and SL end with an evaluation, the last one at ``accuracy``."""
    noise = random.Random(f"{arm} {seed}")
    records: list[StepRecord] = []
    step, epoch, latency = 0, 0, 0.0
    supervised = sum(epochs for phase, epochs in PHASES[arm].items() if phase != "ssl")
    evaluated = 0
    for phase, epochs in PHASES[arm].items():
        for phase_epoch in range(1, epochs + 1):
            epoch += 1
            for place in range(2, STEPS_AN_EPOCH + 1, 2):
                step += 2
                latency += 2 / STEPS_AN_EPOCH * SECONDS_AN_EPOCH[phase] * slowness / world_size
                ends = place == STEPS_AN_EPOCH and phase != "ssl"
                evaluated += ends
                progress = 1 - math.exp(-3.0 * evaluated / supervised)
                last = ends and evaluated == supervised
                score = accuracy if last else (accuracy - 3) * progress / 0.95 + noise.uniform(-1, 1)
                ssl = 0.2 + 0.8 * math.exp(-step / 40) + noise.uniform(0, 0.03)
                sl = 0.4 + 1.9 * math.exp(-3.0 * evaluated / supervised) + noise.uniform(0, 0.1)
                records.append(
                    StepRecord(
                        step=step,
                        phase=phase,
                        epoch=epoch,
                        phase_epoch=phase_epoch,
                        samples=step * BATCH,
                        loss=ssl if phase == "ssl" else sl,
                        loss_ssl=None if phase == "sl" else ssl,
                        loss_sl=None if phase == "ssl" else sl,
                        lr=1e-3,
                        lr_reconstruct=None if phase == "sl" else 1e-3,
                        lr_classify=None if phase == "ssl" else 1e-3,
                        alpha={"ssl": 1.0, "mix": 0.5, "sl": 0.0}[phase],
                        grad_norm=1.0,
                        images_per_s=BATCH * STEPS_AN_EPOCH / SECONDS_AN_EPOCH[phase] / slowness,
                        data_wait=0.02 + noise.uniform(0, 0.02),
                        memory_mb=512.0,
                        latency_s=latency,
                        accuracy=score if ends else None,
                        top5=min(99.0, score + 20) if ends else None,
                    )
                )
    return records


def png(width: int = 96, height: int = 36) -> bytes:
    """Return a small RGB picture: a gradient with a checkerboard."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    lines = b"".join(
        b"\0" + b"".join(bytes((x * 2, y * 6, 200 * ((x // 4 + y // 4) % 2))) for x in range(width))
        for y in range(height)
    )
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")


def _config(folder: Path, arm: str, seed: int, changes: dict[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {
        "data": {"sl": "data/digits", "ssl": None, "fraction": 0.1, "cache": "auto", "workers": 2},
        "method": {
            "arm": arm,
            "ssl_epochs": 8,
            "sl_epochs": 8,
            "mix_ratio": 0.5,
            "loss_ratio": 0.5,
            "mask_ratio": 0.75,
        },
        "model": {"backbone": "vit_tiny_patch16_224", "patch_size": 4, "options": {}, "decoder_depth": 2},
        "optim": {"ssl": {"base_lr": 1.5e-4, "betas": [0.9, 0.95]}, "sl": {"base_lr": 1e-3}, "mix_schedule": "joint"},
        "train": {"batch": BATCH, "micro_batch": None, "precision": "auto", "log_every": 2},
        "run": {"dir": str(folder), "resume": "auto"},
        "tracking": {"wandb": "disabled", "project": "mixdist"},
        "seed": seed,
    }
    for key, value in changes.items():
        *sections, name = key.split(".")
        inner = tree
        for section in sections:
            inner = inner[section]
        inner[name] = value
    return tree


def _result(arm: str, seed: int, accuracy: float, last: StepRecord, device: str, world_size: int) -> dict[str, Any]:
    weights = {phase: epochs * SECONDS_AN_EPOCH[phase] for phase, epochs in PHASES[arm].items()}
    phases = {
        phase: {
            "epochs": epochs,
            "steps": epochs * STEPS_AN_EPOCH,
            "images": epochs * STEPS_AN_EPOCH * BATCH,
            "latency_s": last.latency_s * weights[phase] / sum(weights.values()),
            "images_per_s": BATCH * STEPS_AN_EPOCH / SECONDS_AN_EPOCH[phase],
        }
        for phase, epochs in PHASES[arm].items()
    }
    return {
        "format": "mixdist-result",
        "version": 1,
        "arm": arm,
        "accuracy": accuracy,
        "top5": 95.0,
        "latency_s": last.latency_s,
        "phases": phases,
        "evaluation_s": 1.5,
        "checkpoint_s": 0.2,
        "setup_s": 2.1,
        "wall_s": last.latency_s + 3.8,
        "images_per_s": last.samples / last.latency_s,
        "samples": last.samples,
        "seed": seed,
        "world_size": world_size,
        "device": device,
        "fraction": 0.1,
        "labelled": 143,
        "unlabelled": 0,
        "backbone": "vit_tiny_patch16_224",
        "data": "digits",
        "parameters": 5_526_346,
        "memory_mb": 512.0,
        "versions": {"python": "3.11.7", "torch": "2.9.0", "timm": "1.0.20", "mixdist": "0.1.0"},
        "git": "0123456789abcdef0123",
        "finished": "2026-01-02T03:04:05+00:00",
    }
