"""Reading a checkpoint: held against its manifest byte by byte, and nothing in it executed."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file

from mixdist.engine.checkpoint.manifest import FileDigest, Manifest, Torn, read_manifest
from mixdist.engine.checkpoint.parts import STATE, VERSIONS, WEIGHTS, Parts
from mixdist.errors import UserError


def verify(folder: Path) -> Manifest:
    """Read every byte of a checkpoint; return its manifest.

    Raises:
        Torn: a file is missing or is not what was written.
        UserError: it is whole, but of another version of the format.
    """
    manifest = read_manifest(folder)
    for name, written in manifest.files.items():
        try:
            found = FileDigest.of(folder / name)
        except OSError as error:
            raise Torn(f"{name} cannot be read: {error.strerror}") from error
        if found.size != written.size:
            raise Torn(f"{name} has {found.size:,} bytes, {written.size:,} were written")
        if found != written:
            raise Torn(f"{name} has other bytes than were written (SHA-256)")
    return manifest


def read_parts(folder: Path, manifest: Manifest) -> Parts:
    """Return the parts of a verified checkpoint, tensors on the CPU.

    Raises:
        UserError: a part that this mixdist does not know, or not in this version; or it cannot be read.
    """
    for name, version in manifest.parts.items():
        if VERSIONS.get(name) != version:
            reads = f"reads version {VERSIONS[name]}" if name in VERSIONS else "does not know it"
            raise UserError(
                f"{folder} holds the part '{name}' in version {version}, this mixdist {reads}; it was written by "
                f"mixdist {manifest.mixdist}: use that one, or train afresh in another run.dir"
            )
    try:
        state = torch.load(folder / STATE, map_location="cpu", weights_only=True)
        weights = {part: load_file(folder / file) for part, file in WEIGHTS.items() if part in manifest.parts}
        parts = {name: weights[name] if name in weights else state[name] for name in manifest.parts}
        return parts | (manifest.judged or {})
    except Exception as error:  # a hash that fits proves no good will: torch raises whatever its reading ran into
        raise UserError(
            f"{folder} cannot be read as a checkpoint ({type(error).__name__}); remove it to use the one before"
        ) from error
