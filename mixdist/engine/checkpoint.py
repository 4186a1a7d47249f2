"""Checkpoints: a dict of parts in one file, whole or absent, and refused where it belongs to another run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

import torch

from mixdist.config.schema import Config
from mixdist.errors import UserError
from mixdist.files import atomic

VERSION = 2
LAYOUT_KEYS = (  # settings that a resume may change: they do not say what is trained, only where and how it is watched
    "run",
    "tracking",
    "data.sl",
    "data.ssl",
    "data.cache",
    "data.cache_dir",
    "data.cache_limit_gb",
    "data.workers",
    "data.bad_samples",
    "data.bad_limit",
    "train.micro_batch",
    "train.gradient_checkpointing",
    "train.max_skipped",
    "train.log_every",
    "train.eval_every",
    "train.eval_batch",
)


def identity(config: Config, content: dict[str, str]) -> dict[str, str]:
    """Return what makes a run this run, as dotted key -> text; ``content`` holds fingerprints of the packed sets."""
    flat = dict(_flatten(config.model_dump(mode="json"), ""))
    own = {key: value for key, value in flat.items() if not any(f"{key}.".startswith(f"{k}.") for k in LAYOUT_KEYS)}
    return own | content


def _read(path: Path) -> Any:
    with ZipFile(path) as archive:  # torch.load does not hold the content against its checksums
        if damaged := archive.testzip():
            raise BadZipFile(damaged)
    return torch.load(path, map_location="cpu", weights_only=True)


def _flatten(tree: dict[str, Any], prefix: str) -> list[tuple[str, str]]:
    pairs: list[tuple[str, str]] = []
    for key, value in tree.items():
        nested = isinstance(value, dict) and value
        pairs += _flatten(value, f"{prefix}{key}.") if nested else [(f"{prefix}{key}", str(value))]
    return pairs


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of one run folder."""

    folder: Path
    identity: dict[str, str]
    keep: int

    def save(self, step: int, parts: dict[str, Any]) -> Path:
        """Write a checkpoint (one rank only), then remove all but the newest ``keep``.

        Raises:
            UserError: it cannot be written, as on a full disk; the checkpoints before are as they were.
        """
        path = self.folder / f"step-{step:09d}.pt"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with atomic(path) as file:
                torch.save({"version": VERSION, "identity": self.identity, "step": step, "parts": parts}, file)
            for old in self._all()[: -self.keep]:
                old.unlink()
        except (OSError, RuntimeError) as error:  # torch's own writer raises a RuntimeError on a full disk
            raise UserError(
                f"{path} cannot be written ({' '.join(str(error).split())}); make room, then the same command goes on "
                f"from the checkpoint before"
            ) from error
        return path

    def newest(self) -> Path | None:
        """Return the newest checkpoint, None where there is none."""
        return next(reversed(self._all()), None)

    def load(self, path: Path) -> dict[str, Any]:
        """Return the parts of a checkpoint, tensors on the CPU; nothing in the file is executed.

        Raises:
            UserError: not a checkpoint, of another version, or of a run with another model or plan.
        """
        try:
            content = _read(path)
            version, other, parts = content["version"], content["identity"], content["parts"]
        except Exception as error:  # of damaged bytes, torch raises whatever their reading ran into
            raise UserError(
                f"{path} cannot be read as a checkpoint ({type(error).__name__}); remove it to use the one before"
            ) from error
        if version != VERSION:
            raise UserError(
                f"{path} has version {version}, this mixdist reads {VERSION}; train afresh in another run.dir"
            )
        if differing := self._differences(other):
            raise UserError(
                f"{path} belongs to another run: {'; '.join(differing)}. Use those settings to go on, another run.dir, "
                f"or --run.resume fresh to remove it"
            )
        found: dict[str, Any] = parts
        return found

    def _differences(self, other: dict[str, str]) -> list[str]:
        keys = [*self.identity, *(key for key in other if key not in self.identity)]
        return [
            f"{key} was {other.get(key, 'not set')}, now {self.identity.get(key, 'not set')}"
            for key in keys
            if other.get(key) != self.identity.get(key)
        ]

    def _all(self) -> list[Path]:
        return sorted(self.folder.glob("step-*.pt"))
