"""Writing a checkpoint: into a temporary folder, flushed to the disk, renamed, and read back before it counts."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

import mixdist
from mixdist.engine.checkpoint.manifest import NAME, FileDigest, Manifest, Torn, read_manifest
from mixdist.engine.checkpoint.parts import STATE, VERSIONS, WEIGHTS, Parts, tensors
from mixdist.engine.checkpoint.read import verify
from mixdist.errors import UserError
from mixdist.files import atomic

TEMPORARY = ".partial"  #: how the names of what is being written or removed end
_MARGIN = 2**20  # bytes for manifest, headers and the file system's own
_PER_TENSOR = 2**10  # bytes of name, shape and alignment


def size_of(parts: Parts) -> int:
    """Return about how many bytes a checkpoint of these parts takes, rather too many than too few."""
    own = tensors(parts)
    return sum(tensor.numel() * tensor.element_size() + _PER_TENSOR for tensor in own) + _MARGIN


def check_room(folder: Path, parts: Parts) -> None:
    """Refuse to begin a checkpoint that the disk has no room for.

    Raises:
        UserError: with the room that is needed and that is free; nothing was written.
    """
    need, free = size_of(parts), shutil.disk_usage(folder).free
    if free < need:
        raise UserError(
            f"{folder}: a checkpoint needs {need / 1e6:,.1f} MB, {free / 1e6:,.1f} MB are free; make room, then the "
            f"same command goes on from the checkpoint before"
        )


def write(path: Path, step: int, parts: Parts, identity: dict[str, str]) -> None:
    """Write the parts, in host memory, as the checkpoint ``path``, and verify it.

    Raises:
        UserError: it cannot be written, as on a full disk, or reads back differently; ``path`` is absent then.
    """
    temporary = path.with_name(path.name + TEMPORARY)
    try:
        temporary.mkdir()
        _write_files(temporary, step, parts, identity)
        temporary.rename(path)
        flush(path.parent)
    except (OSError, RuntimeError, SafetensorError) as error:  # torch's own writer raises RuntimeError on a full disk
        raise unwritten(path, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)  # gone where it was renamed
    try:
        verify(path)
    except Torn as error:
        remove(path)
        raise UserError(f"{path} was written, but read back differently: {error}; is the disk in order?") from error


def amend(path: Path, parts: Parts, score: float | None) -> None:
    """Put small parts without tensors in place of those that a checkpoint has, and its score: all of it, or nothing.

    Raises:
        UserError: it cannot be written, or the manifest is not what was written.
    """
    try:
        manifest = read_manifest(path).model_copy(update={"judged": parts, "score": score})
        with atomic(path / NAME) as file:
            file.write(manifest.dump())
        flush(path)
    except (OSError, Torn) as error:
        raise unwritten(path / NAME, error) from error


def unwritten(path: Path, error: Exception) -> UserError:
    """Return the error for a checkpoint that the file system did not take."""
    return UserError(
        f"{path} cannot be written ({' '.join(str(error).split())}); make room, then the same command goes on from the "
        f"checkpoint before"
    )


def remove(path: Path) -> None:
    """Remove a checkpoint; one that is half removed has no checkpoint's name."""
    temporary = path.with_name(path.name + TEMPORARY)
    path.rename(temporary)
    _delete(temporary)


def remove_stale(folder: Path) -> None:
    """Remove what killed writers and removers left; ``folder`` has one writer at a time."""
    for left in folder.glob(f"*{TEMPORARY}"):
        _delete(left)


def flush(path: Path) -> None:
    """Bring a file, or the names in a folder, to the disk; who reads it after this reads what the disk holds."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def _write_files(folder: Path, step: int, parts: Parts, identity: dict[str, str]) -> None:
    files: dict[str, FileDigest] = {}
    for name, file in WEIGHTS.items():
        if name in parts:  # safetensors knows no strides: channels_last weights lie contiguous in it
            own = {key: tensor.contiguous() for key, tensor in parts[name].items()}
            save_file(own, folder / file, metadata={"format": "pt", "step": str(step)})
            files[file] = _sealed(folder / file)
    with (folder / STATE).open("wb") as state:  # closed on an error too; torch's own would hold on to the room it took
        torch.save({name: part for name, part in parts.items() if name not in WEIGHTS}, state)
    files[STATE] = _sealed(folder / STATE)
    manifest = Manifest(
        mixdist=mixdist.__version__,
        step=step,
        score=None,
        identity=identity,
        parts={name: VERSIONS[name] for name in parts},
        files=files,
    )
    (folder / NAME).write_bytes(manifest.dump())
    flush(folder / NAME)
    flush(folder)


def _sealed(path: Path) -> FileDigest:
    """Return the digest of a file as it was handed to the file system, and only then bring it to the disk."""
    digest = FileDigest.of(path)
    flush(path)
    return digest
