"""manifest.json: what a checkpoint is, and the size and SHA-256 of each of its files, under a digest of its own."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mixdist.engine.checkpoint.parts import files_of
from mixdist.errors import UserError
from mixdist.files import sha256_of

NAME = "manifest.json"
FORMAT = "mixdist-checkpoint"
VERSION = 3  # 1 and 2 were single files, step-N.pt


class Torn(Exception):  # noqa: N818, as it is no error yet: there may be a checkpoint before this one
    """A checkpoint that is not as it was written; the text names the file and says why."""


class FileDigest(BaseModel):
    """What a file has to be."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    size: int  #: bytes
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]

    @staticmethod
    def of(path: Path) -> FileDigest:
        """Read a file."""
        return FileDigest(size=path.stat().st_size, sha256=sha256_of(path))


class Manifest(BaseModel):
    """What a checkpoint says of itself."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    format: str = FORMAT
    version: int = VERSION
    mixdist: str  #: version that wrote it
    step: int
    score: float | None  #: top-1 in percent, where this step was evaluated
    identity: dict[str, str]
    parts: dict[str, int]  #: name -> version
    files: dict[str, FileDigest]
    judged: dict[str, Any] | None = None  #: parts in place of those in the files: as they were after an evaluation

    def dump(self) -> bytes:
        """Return the content of manifest.json: the same for equal manifests, byte by byte."""
        content = self.model_dump(mode="json")
        return _text(content | {"sha256": _digest(content)})


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of a checkpoint, any change of a single byte of which is noticed.

    Raises:
        Torn: it is missing or not what was written.
        UserError: it is whole, but of another version of the format.
    """
    try:
        raw = (folder / NAME).read_bytes()
        content = json.loads(raw)
        digest = content.pop("sha256")
        if digest != _digest(content) or raw != _text(content | {"sha256": digest}):
            raise ValueError("its bytes differ from those that were written")
        if (found := (content["format"], content["version"])) != (FORMAT, VERSION):
            raise UserError(
                f"{folder} is in the format {found[0]} {found[1]}, this mixdist reads {FORMAT} {VERSION}; use "
                f"the mixdist that wrote it, or train afresh in another run.dir"
            )
        manifest = Manifest.model_validate(content)
        if manifest.files.keys() != files_of(set(manifest.parts)):
            raise ValueError("its files are not those of its parts")
    except OSError as error:
        raise Torn(f"{NAME} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:  # JSON of any shape
        reason = "its fields are not those of this format" if isinstance(error, ValidationError) else error
        raise Torn(f"{NAME} cannot be read: {reason}") from error
    return manifest


def _digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(_text(content)).hexdigest()


def _text(content: dict[str, Any]) -> bytes:
    return f"{json.dumps(content, indent=2)}\n".encode()
